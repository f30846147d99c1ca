"""The stage `audit`: how one model comes to its answers. It reads no side file.

Predictions say what the model answered; the model itself is asked again about altered media and
rationales (examine.py); the judges say what a clip shows and sounds like.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from rich.console import Console
from rich.progress import Progress

from r1omni.claims import Claim, Verdict, claims
from r1omni.corpora.sets import Member, features_of
from r1omni.evaluation.audit import answers, grounding
from r1omni.evaluation.audit.best_of import best_of
from r1omni.evaluation.audit.certainty import certainty
from r1omni.evaluation.audit.choosing import choose
from r1omni.evaluation.audit.contributions import contributions
from r1omni.evaluation.audit.examine import AUDIO, VIDEO, Examined
from r1omni.evaluation.audit.grounding import Said
from r1omni.evaluation.audit.statistics import Bootstrap
from r1omni.evaluation.audit.workers import Block, Job, examine_blocks
from r1omni.evaluation.audit_results import (
    ALL,
    AuditedClaim,
    AuditedClip,
    AuditResults,
    Level,
    Measured,
    write_audit,
    write_audited_clips,
)
from r1omni.evaluation.predictions import Prediction, read_metadata, read_predictions
from r1omni.evaluation_config import AuditParams, ScoreParams
from r1omni.judges.loading import Judged
from r1omni.judges.selection import best_by_judges
from r1omni.judges.verdicts import support
from r1omni.machine.device import Device

Examinations = Mapping[str, Sequence[Examined]]  # by corpus


def run_audit(
    checkpoint: Path,
    predictions: Path,
    tested: Sequence[Member],
    judged: Judged,
    out: Path,
    clips: Path,
    *,
    audit: AuditParams,
    score: ScoreParams,
    max_new_tokens: int,
    batch_size: int,
    processes: int,
    device: Device,
) -> None:
    """Write the audit's numbers (JSON) and its clips (Parquet).

    `predictions`: the checkpoint's, for the test clips. Raises ValueError for a corpus with fewer
    than two predictions: a clip is compared with others of its corpus.
    """
    rows = read_predictions(predictions)
    metadata = read_metadata(predictions)
    by_corpus = {c: [r for r in rows if r.corpus == c] for c in sorted({r.corpus for r in rows})}
    for corpus, found in by_corpus.items():
        if len(found) < 2:
            raise ValueError(f"{predictions}: {corpus} has one clip; an audit compares clips")
    job = Job(
        checkpoint,
        tuple(features_of(tested)),
        max_new_tokens,
        audit.temperature,
        audit.seed,
        audit.samples,
        device,
    )
    chosen = {
        corpus: choose(found, clips=audit.clips, n_donors=audit.donors, seed=audit.seed)
        for corpus, found in by_corpus.items()
    }
    blocks = [
        Block(tuple(subjects[i : i + batch_size]), metadata.labels[corpus])
        for corpus, subjects in chosen.items()
        for i in range(0, len(subjects), batch_size)
    ]
    examined: dict[str, list[Examined]] = {corpus: [] for corpus in by_corpus}
    found_blocks = examine_blocks(job, blocks, processes)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"audit {checkpoint.name}", total=sum(map(len, chosen.values())))
        for block in found_blocks:
            examined[block[0].subject.corpus] += block
            progress.advance(task, len(block))
    synthetic = {c for c in by_corpus if metadata.origin(c).data == "synthetic"}
    bootstrap = Bootstrap(score.bootstrap_samples, score.confidence, score.seed)
    measure = _Measure(judged, metadata.labels, bootstrap, synthetic)
    everything = {corpus: (examined[corpus], by_corpus[corpus]) for corpus in by_corpus}
    everything[ALL] = ([e for each in examined.values() for e in each], rows)
    mode = rows[0].mode
    numbers = {corpus: measure.numbers(*found) for corpus, found in everything.items()}
    write_audited_clips(_table(examined, measure), clips)
    write_audit(AuditResults(model=checkpoint.name, mode=mode, corpora=numbers), out)


class _Measure:
    """From what was examined and predicted to the audit's numbers."""

    def __init__(
        self,
        judged: Judged,
        labels: Mapping[str, Sequence[str]],  # of each corpus
        bootstrap: Bootstrap,
        synthetic: Collection[str],  # corpora whose emotions show where attributes.py says
    ) -> None:
        self.judged, self.bootstrap = judged, bootstrap
        self.verdicts, self.reader = judged.verdicts, judged.reader
        self.labels, self.synthetic = labels, synthetic

    def numbers(
        self, examined: Sequence[Examined], rows: Sequence[Prediction]
    ) -> dict[str, Measured]:
        """Every number that can be measured, by key."""
        found: dict[str, Measured | None] = {
            **answers.closed(examined, self.bootstrap),
            **answers.absence(examined, self.bootstrap),
            **answers.shapley_values(examined, self.bootstrap),
            **self._by_sense(rows, [row.right for row in rows]),
        }
        if rows[0].mode == "reasoned":
            said = [
                Said(row.clip_id, row.corpus, row.prediction, row.rationale)
                for row in rows
                if row.rationale is not None
            ]
            found |= answers.forced_rationales(examined, self.read, self.bootstrap)
            found |= answers.rationale_alone(examined, self.bootstrap)
            found |= grounding.absent_claims(examined, self.bootstrap)
            found |= grounding.media_swaps(examined, self.verdicts, self.bootstrap)
            found |= grounding.grounding(said, self.verdicts, self.bootstrap)
            found |= {
                f"grounding.attribute.{name}.reliability": Measured(value=value, n=n)
                for name, (value, n) in self.judged.reliability.items()
            }
            found |= certainty(examined, self.verdicts, self.bootstrap)
            found |= self._reader(rows)
            found |= best_of(examined, self.verdicts, self.reader, self.bootstrap)
        return {key: value for key, value in sorted(found.items()) if value is not None}

    def read(self, rationales: Sequence[str | None], corpora: Sequence[str]) -> list[str | None]:
        """The reader's answer to each rationale, among its corpus's labels; None without one."""
        return [
            None if text is None else self.reader.answers([text], self.labels[corpus])[0]
            for text, corpus in zip(rationales, corpora, strict=True)
        ]

    def _reader(self, rows: Sequence[Prediction]) -> Mapping[str, Measured | None]:
        """What the reader makes of the rationales, all of them.

        `same` is the rationales' plausibility, which says nothing of faithfulness.
        """
        texts = self.read([row.rationale for row in rows], [row.corpus for row in rows])
        labels = np.array([row.label for row in rows])
        right = [text == label for text, label in zip(texts, labels, strict=True)]
        answered = [
            (text, row.prediction)
            for text, row in zip(texts, rows, strict=True)
            if row.prediction is not None and text is not None
        ]
        by_sense = self._by_sense(rows, right)
        return {
            "reader.answers.war": self.bootstrap.ratio(right),
            "reader.answers.uar": self.bootstrap.mean_recall(labels, right),
            "reader.same": self.bootstrap.ratio([text == own for text, own in answered]),
            **{f"reader.answers.{key}": value for key, value in by_sense.items()},
        }

    def _by_sense(
        self, rows: Sequence[Prediction], right: Sequence[bool]
    ) -> Mapping[str, Measured | None]:
        pairs = [
            (row.label, correct)
            for row, correct in zip(rows, right, strict=True)
            if row.corpus in self.synthetic
        ]
        return answers.heard_and_seen(pairs, self.bootstrap)


def _table(examined: Examinations, measure: _Measure) -> Iterable[AuditedClip]:
    for found in examined.values():
        phi = contributions(found).donated
        read = measure.read([e.subject.rationale for e in found], [e.subject.corpus for e in found])
        for i, (e, reader) in enumerate(zip(found, read, strict=True)):
            subject, turned = e.subject, "reversed" in e.forced
            best = best_by_judges(e.samples, measure.verdicts.get(subject.clip_id, {}))
            yield AuditedClip(
                clip_id=subject.clip_id,
                corpus=subject.corpus,
                label=subject.label,
                prediction=subject.prediction,
                rationale=subject.rationale,
                phi_video=float(phi[VIDEO][i]) if phi else None,
                phi_audio=float(phi[AUDIO][i]) if phi else None,
                muted_rationale=e.muted.rationale,
                muted_prediction=e.muted.prediction,
                dark_rationale=e.dark.rationale,
                dark_prediction=e.dark.prediction,
                reversed_rationale=subject.reversed_rationale if turned else None,
                reversed_prediction=answers.forced_answer(e, "reversed") if turned else None,
                reader_prediction=reader,
                best_rationale=None if best is None else best.rationale,
                best_prediction=None if best is None else best.prediction,
                claims=tuple(_claims(e, reader, measure)),
            )


def _claims(e: Examined, label: str | None, measure: _Measure) -> Iterable[AuditedClaim]:
    rationale = e.subject.rationale
    if rationale is None or label is None:
        return
    verdict = measure.verdicts.get(e.subject.clip_id, {})
    weights = measure.reader.claim_weights(rationale, label)
    for claim, sure, weight in zip(claims(rationale), e.certainty, weights, strict=True):
        yield _claim(claim, verdict, sure, weight)


def _claim(claim: Claim, verdict: Verdict, sure: float, weight: float) -> AuditedClaim:
    return AuditedClaim(
        side=claim.side,
        attribute=claim.attribute,
        level=cast(Level, claim.level),
        start=claim.start,
        end=claim.end,
        p=support(verdict, claim.attribute, claim.level, claim.negated),
        certainty=sure,
        weight=weight,
    )
