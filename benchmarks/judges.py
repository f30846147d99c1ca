"""The claim judges and the reader against the synthetic corpora's side files.

    python -m benchmarks.judges PROJECT

PROJECT is a folder in which `r1omni repro` ran. The side files judge the judges and are read for
nothing else. Prints a table: what was measured, the number, and what is accepted.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from r1omni.claims import ATTRIBUTES, Side, Verdict, claims
from r1omni.corpora.clip import read_manifest
from r1omni.corpora.sets import Member, read_set
from r1omni.corpora.synthetic.attributes import FACE, VOICE, prototype
from r1omni.emotion_families import names_emotion
from r1omni.evaluation.truth import Truth, read_truth
from r1omni.evaluation_config import JudgesParams
from r1omni.judges.acoustics import MEASURES, measures
from r1omni.judges.judge import LEVELS, ClaimJudge, fit_judge
from r1omni.judges.measuring import Hearing, hear_clip, read_measures, source_of
from r1omni.judges.pictures import picture_row
from r1omni.judges.reader import Reader, fit_reader
from r1omni.judges.verdicts import read_verdicts
from r1omni.model.feature_store import FeatureStore
from r1omni.params_file import read_params
from r1omni.rewards import grounding_reward

Floats = NDArray[np.float64]
PAPER_TEXTS: Final = 232  # EMER's share of the paper's cold start
GAIN_CLIPS: Final = 160
Row = tuple[str, float, str]  # what, the number, what is accepted


def level_accuracy(
    verdicts: Mapping[str, Verdict], truth: Mapping[str, Truth], names: Sequence[str]
) -> dict[str, float]:
    """By judged attribute, the share of clips whose likeliest level is the true one."""
    found = {}
    for name in names:
        hits = [
            LEVELS[int(np.argmax(verdict[name]))] == truth[clip_id].levels[name]
            for clip_id, verdict in verdicts.items()
            if name in verdict
        ]
        found[name] = float(np.mean(hits)) if hits else float("nan")
    return found


def judged_claims(
    rationales: Mapping[str, str],
    side: Side,
    verdicts: Mapping[str, Verdict],
    truth: Mapping[str, Truth],
) -> tuple[Floats, NDArray[np.bool_]]:
    """Of every judged claim: the probability of the claimed level, and whether it is true."""
    p, true = [], []
    for clip_id, rationale in rationales.items():
        for claim in claims(rationale):
            verdict = verdicts.get(clip_id, {}).get(claim.attribute)
            if claim.side == side and verdict is not None and not claim.negated:
                p.append(verdict[claim.level + 1])
                true.append(truth[clip_id].levels[claim.attribute] == claim.level)
    return np.array(p), np.array(true, dtype=bool)


def auc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """The chance that a positive's score is above a negative's; ties count half."""
    above = scores[positive][:, None] - scores[~positive][None]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def dealt(texts: Sequence[str], labels: Sequence[str], seed: int) -> list[str]:
    """The texts, each given to another clip of its label: what stereotypes alone would be."""
    rng, found = np.random.default_rng(seed), list(texts)
    for label in sorted(set(labels)):
        own = [i for i, known in enumerate(labels) if known == label]
        order = rng.permutation(own)
        for i, j in zip(order, np.roll(order, 1), strict=True):
            found[int(i)] = texts[int(j)]
    return found


class Project:
    """What a reproduced project holds for the judges. Paths in it are relative to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.params = read_params(root / "params.yaml")
        self.judges: JudgesParams = self.params.judges
        self.truth = read_truth(sorted((root / "data/truth").glob("*.parquet")))
        calibration = read_set(root / "data/sets/cold_start.json")
        self.tested = read_set(root / "data/sets/test.json")
        self.reasoned = [
            clip
            for member in calibration
            for clip in read_manifest(root / member.manifest)
            if clip.rationale and clip.label and clip.split == "train"
        ]
        ids = [clip.clip_id for clip in self.reasoned]
        self.texts = [clip.rationale or "" for clip in self.reasoned]
        self.labels = [clip.label or "" for clip in self.reasoned]
        tables = [self.measured(member) for member in calibration]
        self.sounds = pd.concat(tables).loc[ids].to_numpy(float)
        store = FeatureStore([root / m.features for m in calibration if m.features is not None])
        self.pictures = np.stack([picture_row(features) for features in store.load(ids)])

    def measured(self, member: Member) -> pd.DataFrame:
        """The corpus's measures by clip id."""
        return read_measures(self.root / f"data/measures/{member.manifest.stem}.parquet")

    def fit(self, side: Side, rows: Floats, texts: Sequence[str], at: Sequence[int]) -> ClaimJudge:
        """A judge of these calibration clips."""
        components = self.judges.components if side == "face" else None
        texts, labels = [texts[i] for i in at], [self.labels[i] for i in at]
        return fit_judge(
            rows[list(at)], texts, labels, side=side, components=components, judges=self.judges
        )

    def hear(self, judge: ClaimJudge, members: Sequence[Member]) -> dict[str, Verdict]:
        """The verdicts of a judge of voices on whole corpora."""
        found: dict[str, Verdict] = {}
        for member in members:
            table = self.measured(member)
            verdicts = judge.verdicts(table.to_numpy(float), own_scale=True)
            found |= dict(zip(table.index, verdicts, strict=True))
        return found

    def predictions(self, model: str) -> pd.DataFrame:
        """A model's predictions on the test clips."""
        return pd.read_parquet(self.root / f"data/predictions/{model}.parquet")


def side_rows(project: Project, side: Side, verdicts: Mapping[str, Verdict]) -> Iterator[Row]:
    """Level accuracy, and what the judge says of GRPO's statements."""
    names = ATTRIBUTES[side]
    accuracy = level_accuracy(verdicts, project.truth, names)
    accepted = ">= .92" if side == "voice" else "(.90)"
    yield f"{side} judge: level accuracy, mean", float(np.nanmean([*accuracy.values()])), accepted
    for name, value in accuracy.items():
        yield f"  {name}", value, ""
    for model in ("cold_start", "grpo"):
        table = project.predictions(model)
        said = dict(zip(table.clip_id, table.rationale.fillna(""), strict=True))
        p, true = judged_claims(said, side, verdicts, project.truth)
        accepted = {"voice": ">= .95", "face": ">= .93"}[side] if model == "grpo" else ""
        yield f"{side} judge: AUC on {model}'s {len(p)} statements", auc(p, true), accepted
        if model == "grpo":
            accepted = {"voice": ">= .80", "face": ">= .90"}[side]
            yield f"{side} judge: contradicted is false", float((~true)[p < 0.2].mean()), accepted
            yield f"{side} judge: false is contradicted", float((p < 0.2)[~true].mean()), ""
            yield f"{side} judge: supported is true", float(true[p >= 0.5].mean()), ""


def few_texts_row(project: Project) -> Row:
    """The voice judge of as many texts as the paper had from EMER, mean of five draws."""
    rng, found = np.random.default_rng(project.judges.seed), []
    for _ in range(5):
        at = rng.permutation(len(project.texts))[:PAPER_TEXTS].tolist()
        judge = project.fit("voice", project.sounds, project.texts, at)
        verdicts = project.hear(judge, project.tested)
        found.append(np.nanmean([*level_accuracy(verdicts, project.truth, judge.judged).values()]))
    return f"voice judge from {PAPER_TEXTS} texts: level accuracy", float(np.mean(found)), ">= .90"


def gate_rows(project: Project) -> Iterator[Row]:
    """How many attributes pass the gate, by our texts and by texts dealt within their labels."""
    every = range(len(project.texts))
    others = dealt(project.texts, project.labels, project.judges.seed)
    for what, texts, accepted in (("own", project.texts, "11"), ("dealt", others, "0")):
        found = []
        for side, rows in (("voice", project.sounds), ("face", project.pictures)):
            found += list(project.fit(side, rows, texts, every).probes.values())
        known = [probe.reliability for probe in found if probe.reliability is not None]
        n_judged = float(sum(probe.judged for probe in found))
        yield f"gate, {what} texts: attributes judged", n_judged, accepted
        yield f"  least within-label AUC, {what} texts", min(known), ""
        yield f"  largest within-label AUC, {what} texts", max(known), ""


def gain_rows(project: Project, judge: ClaimJudge) -> Iterator[Row]:
    """Loudness on clips of one corpus that were all recorded louder or softer."""
    member, limits = project.tested[0], project.params.limits
    clips = [c for c in read_manifest(project.root / member.manifest) if c.split == "test"]
    clips = clips[:: max(1, len(clips) // GAIN_CLIPS)][:GAIN_CLIPS]
    root = project.root / project.params.corpora[member.manifest.stem].root
    hearing = Hearing(project.params.media.audio_seconds)
    sounds = [
        hear_clip(source_of(member.manifest, root, clip), hearing, limits.max_pixels)
        for clip in clips
    ]
    for decibel in (6.0, -6.0):
        gain = np.float32(10 ** (decibel / 20))
        found = [measures(sound * gain, hearing.sampling_rate) for sound in sounds]
        rows = np.array([[measured[name] for name in MEASURES] for measured in found])
        for own_scale, accepted in ((True, ">= .95"), (False, "")):
            verdicts = judge.verdicts(rows, own_scale=own_scale)
            by_clip = dict(zip([clip.clip_id for clip in clips], verdicts, strict=True))
            accuracy = level_accuracy(by_clip, project.truth, ["loudness"])["loudness"]
            how = "by the corpus" if own_scale else "by the calibration"
            yield f"loudness at {decibel:+.0f} dB, scaled {how}", accuracy, accepted


def reader_rows(project: Project) -> Iterator[Row]:
    """The reader's cross-validated accuracy, and its answers from two models' rationales."""
    fit = project.judges
    for words in (False, True):
        reader = fit_reader(project.texts, project.labels, words=words, folds=fit.folds,
                            penalty=fit.penalty, seed=fit.seed,
                            masked=names_emotion)  # fmt: skip
        read = "claims and words" if words else "claims"
        yield f"reader of {read}: {fit.folds}-fold accuracy", reader.accuracy, ">= .88"
        for model, margin in (("cold_start", "+ .04"), ("grpo", "- .03")):
            yield from answer_rows(project, reader, model, read, margin)


def answer_rows(
    project: Project, reader: Reader, model: str, read: str, margin: str
) -> Iterator[Row]:
    """Accuracy of a model's answers, and of the reader's from the same rationales."""
    table = project.predictions(model)
    labels = {member.corpus: member.labels for member in project.tested}
    answers = [
        None if pd.isna(rationale) else reader.answers([rationale], labels[corpus])[0]
        for rationale, corpus in zip(table.rationale, table.corpus, strict=True)
    ]
    own = (table.prediction == table.label).fillna(False).to_numpy(bool)
    right = np.array(answers) == table.label.to_numpy()
    heard = table.label.map(_is_only_heard).to_numpy(bool)
    yield f"  {model}'s own answers", float(own.mean()), ""
    yield f"  {model}, answers by the reader of {read}", float(right.mean()), f">= own {margin}"
    yield f"    heard only: own, {model}", float(own[heard].mean()), ""
    yield f"    heard only: the reader, {model}", float(right[heard].mean()), ">= .60"


def cost_row(project: Project, verdicts: Mapping[str, Verdict]) -> Row:
    """What the grounding reward of one step's completions costs, in CPU ms.

    Completions are those that GRPO kept, verdicts are of any clips: neither changes the work.
    """
    completions = pd.read_parquet(project.root / "data/training/grpo/rollouts.parquet").completion
    grpo, known = project.params.grpo, list(verdicts.values())
    step = grpo.clips_per_step * grpo.group_size
    how = grpo.grounding
    reward = partial(
        grounding_reward,
        sides=["face", "voice"],
        absent=None,
        min_claims=how.min_claims,
        term=how.term,
    )
    began = time.process_time()
    for i, completion in enumerate(completions):
        verdict = known[i % len(known)]
        reward(completion, verdict, verdict)
    spent = time.process_time() - began
    what = f"grounding reward of a step's {step} completions, CPU ms"
    return what, 1000.0 * spent / len(completions) * step, ""


def _is_only_heard(label: str) -> bool:
    shown = prototype(label)
    return not any(shown[name] for name in FACE) and any(shown[name] for name in VOICE)


def rows_of(project: Project) -> Iterator[Row]:
    """Every row of the table."""
    verdicts = read_verdicts(project.root / "data/judges/verdicts.parquet")
    for side in ("voice", "face"):
        yield from side_rows(project, side, verdicts)
    yield few_texts_row(project)
    voice = project.fit("voice", project.sounds, project.texts, range(len(project.texts)))
    yield from gain_rows(project, voice)
    yield from gate_rows(project)
    yield from reader_rows(project)
    yield cost_row(project, verdicts)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("project", type=Path, help="folder in which `r1omni repro` ran")
    for what, value, accepted in rows_of(Project(parser.parse_args().project)):
        sys.stdout.write(f"{what:<62} {value:8.4f}  {accepted}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
