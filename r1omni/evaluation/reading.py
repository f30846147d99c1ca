"""What the reader answers in a model's place, and how true its claims and the judges' verdicts are.

The second reads the synthetic corpora's side files. It judges the judges, who never see them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Final

from r1omni.claims import Side, Verdict, levels
from r1omni.corpora.synthetic.attributes import FACE, LEVELS
from r1omni.evaluation.audit.certainty import auc
from r1omni.evaluation.audit.grounding import Said, recall, specificity
from r1omni.evaluation.audit.statistics import Bootstrap
from r1omni.evaluation.audit_results import AuditedClip
from r1omni.evaluation.metrics import bootstrap_intervals, paired_gain, recalls, uar, war
from r1omni.evaluation.predictions import Prediction
from r1omni.evaluation.results import BestOf, GainOver, Rates, RationaleTruth, ReaderRates
from r1omni.evaluation.truth import Truth, rationale_truth
from r1omni.evaluation_config import ScoreParams
from r1omni.judges.reader import Reader

SIDES: Final[tuple[Side, ...]] = ("face", "voice")


def reader_rates(
    rows: Sequence[Prediction], reader: Reader, labels: Sequence[str], score: ScoreParams
) -> ReaderRates | None:
    """Rates of the reader's answers from the rationales, and its gain over the model's own.

    It chooses among the corpus's labels. Without a well-formed rationale there is no answer. None
    for a model that answers directly.
    """
    if rows[0].mode != "reasoned":
        return None
    truth = [row.label for row in rows]
    read = [None if r.rationale is None else reader.answers([r.rationale], labels)[0] for r in rows]
    own = [row.prediction for row in rows]
    samples, confidence, seed = score.bootstrap_samples, score.confidence, score.seed
    gain = paired_gain(truth, own, read, samples=samples, confidence=confidence, seed=seed)
    return ReaderRates(
        **rates(truth, read, score).model_dump(), gain_over_own=GainOver(**asdict(gain))
    )


def best_read(
    audited: Sequence[AuditedClip], reader: Reader, labels: Sequence[str], score: ScoreParams
) -> Rates | None:
    """Rates of the reader's answers from the sampled rationales that the judges chose.

    `audited`: the audited clips of one model and corpus. A clip of whose samples none was well
    formed has no answer. None if no clip has such a rationale.
    """
    if all(clip.best_rationale is None for clip in audited):
        return None
    truth = [clip.label for clip in audited]
    read = [
        None if clip.best_rationale is None else reader.answers([clip.best_rationale], labels)[0]
        for clip in audited
    ]
    return rates(truth, read, score)


def rates(labels: Sequence[str], answers: Sequence[str | None], score: ScoreParams) -> Rates:
    """WAR, UAR and recalls of answers, with bootstrap intervals over the clips."""
    intervals = bootstrap_intervals(
        labels,
        answers,
        samples=score.bootstrap_samples,
        confidence=score.confidence,
        seed=score.seed,
    )
    return Rates(
        war=war(labels, answers),
        uar=uar(labels, answers),
        war_ci=intervals.war,
        uar_ci=intervals.uar,
        n=len(labels),
        recall=recalls(labels, answers),
    )


def measured_truth(
    rows: Sequence[Prediction],
    truth: Mapping[str, Truth],
    verdicts: Mapping[str, Verdict],
    score: ScoreParams,
) -> RationaleTruth | None:
    """How true the claims are, how specific, and how well the judges tell true from false ones.

    None without a side file, and for a model that answers directly.
    """
    found = rationale_truth(rows, truth)
    if found is None:
        return None
    said = [
        Said(row.clip_id, row.corpus, row.prediction, row.rationale)
        for row in rows
        if row.rationale is not None and row.clip_id in truth
    ]
    certain: dict[str, Verdict] = {
        row.clip_id: {
            name: (float(level == LEVELS[0]), float(level == LEVELS[1]), float(level == LEVELS[2]))
            for name, level in truth[row.clip_id].levels.items()
        }
        for row in said
    }
    bootstrap = Bootstrap(score.bootstrap_samples, score.confidence, score.seed)
    specific = {side: specificity(said, certain, side, bootstrap) for side in SIDES}
    recalled = {side: recall(said, certain, side, bootstrap) for side in SIDES}
    judged = {side: _judges_auc(said, truth, verdicts, side) for side in SIDES}
    return found.model_copy(
        update={
            **{f"{s}_specificity": None if m is None else m.value for s, m in specific.items()},
            **{f"{s}_recall": None if m is None else m.value for s, m in recalled.items()},
            **{f"{s}_judge_auc": value for s, value in judged.items()},
        }
    )


def best_of_truth(
    rows: Sequence[Prediction],
    audited: Mapping[str, AuditedClip],
    truth: Mapping[str, Truth],
    score: ScoreParams,
) -> BestOf | None:
    """The truth of greedy rationales and of those that the judges chose, on the same clips.

    `audited`: the model's audited clips by clip id. None without a side file or without samples.
    """
    both = [
        (row, clip)
        for row in rows
        if (clip := audited.get(row.clip_id)) is not None
        and row.rationale is not None
        and clip.best_rationale is not None
    ]
    if not both:
        return None
    chosen = [
        replace(row, rationale=clip.best_rationale, prediction=clip.best_prediction)
        for row, clip in both
    ]
    greedy = measured_truth([row for row, _ in both], truth, {}, score)
    best = measured_truth(chosen, truth, {}, score)
    return None if greedy is None or best is None else BestOf(greedy=greedy, best=best, n=len(both))


def _judges_auc(
    said: Sequence[Said],
    truth: Mapping[str, Truth],
    verdicts: Mapping[str, Verdict],
    side: Side,
) -> float | None:
    """The chance that of a true and a false claim the judges prefer the true one."""
    scores, true = [], []
    for row in said:
        verdict = verdicts.get(row.clip_id, {})
        for name, level in levels(row.rationale).items():
            if (name in FACE) == (side == "face") and name in verdict:
                scores.append(verdict[name][level + 1])
                true.append(truth[row.clip_id].levels[name] == level)
    return auc(scores, true)
