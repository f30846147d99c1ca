"""One clip explained: claims with verdicts, each modality's share, answers to altered clips.

What needs a judge is left out where there is none; all else is the model's own.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from r1omni.claims import SIDE_OF, Side, Verdict, claims
from r1omni.evaluation.audit.answerer import Media
from r1omni.evaluation.audit.backbone_answerer import BackboneAnswerer
from r1omni.evaluation.audit.contributions import contributions
from r1omni.evaluation.audit.examine import AUDIO, VIDEO, Examined, Subject, examine
from r1omni.evaluation.audit.grounding import CONTRADICTED, SUPPORTED
from r1omni.inference.files import ReadFile, Refusal
from r1omni.inference.hearing import read_and_hear
from r1omni.inference.judged import UNKNOWN_LABELS, Judges, verdict_on
from r1omni.inference.reading import read_files
from r1omni.judges.verdicts import support
from r1omni.judging import Judgement, judge
from r1omni.limits import Limits
from r1omni.model.absence import blank_features
from r1omni.model.backbone import Backbone
from r1omni.model.feature_store import Features

CLIP: Final = "clip"
DARK_AND_SILENT: Final = "darkness and silence"
LEFT_OUT: Final = "no picture, or no sound, in the prompt"
OTHER_LABEL: Final = (
    "{} is none of the labels that were asked for: shares and the answer with claims reversed are "
    "of those labels, of which {} is the likeliest"
)
NO_LABEL: Final = "the answer is no known emotion: the shares are of the likeliest label, {}"
NO_JUDGES: Final = "no judges: run `r1omni repro judges` in the project, or pass --judges FOLDER"


@dataclass(frozen=True)
class ExplainedClaim:
    """A claim's words. `verdict`: supported, undecided, contradicted or not judged; `probability`
    is the judge's. `certainty`: the model's probability of the words. `weight`: what the claim adds
    to the logit of the reader's answer, None without a reader."""

    words: str
    side: Side
    attribute: str
    level: int
    negated: bool
    verdict: str
    probability: float | None
    certainty: float
    weight: float | None


@dataclass(frozen=True)
class Said:
    """An answer and its rationale."""

    prediction: str | None
    rationale: str | None


@dataclass(frozen=True)
class Explanation:
    """What is known of one answer.

    `shares` of |phi| sum to 1, None where neither modality changes anything; `absent` says what
    stands for a missing one. `reversed`: the likeliest label behind the rationale with every claim
    reversed, None where nothing can be reversed.
    """

    file: str
    mode: str
    prediction: str | None
    rationale: str | None
    claims: tuple[ExplainedClaim, ...]
    reader: str | None
    reader_probability: float | None
    shares: Mapping[str, float] | None
    absent: str
    muted: Said
    dark: Said
    reversed: str | None
    notes: tuple[str, ...]

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)


@dataclass(frozen=True)
class _Read:
    """The features of one clip, as a store of features."""

    features: Features

    def load(self, clip_ids: Sequence[str]) -> list[Features]:
        """Its features, however often."""
        return [self.features] * len(clip_ids)


def explain_files(
    files: Sequence[Path | Refusal],
    backbone: Backbone,
    judges: Judges | None,
    *,
    labels: Sequence[str],
    max_new_tokens: int,
    limits: Limits,
) -> Iterator[Explanation | Refusal]:
    """An explanation or a refusal for each file, in order."""
    paths = [file for file in files if isinstance(file, Path)]
    absent = DARK_AND_SILENT if blank_features(backbone) else LEFT_OUT
    judges = judges and judges.beside(backbone)
    with closing(read_files(paths, backbone.preparation, limits, read_and_hear)) as read:
        for file in files:
            outcome = file if isinstance(file, Refusal) else next(read)
            if isinstance(outcome, Refusal):
                yield outcome
            else:
                yield _explain(outcome, backbone, judges, labels, max_new_tokens, absent)


def _explain(
    file: ReadFile,
    backbone: Backbone,
    judges: Judges | None,
    labels: Sequence[str],
    max_new_tokens: int,
    absent: str,
) -> Explanation:
    features = backbone.encode([file.inputs])[0]
    answerer = BackboneAnswerer(
        backbone, _Read(features), max_new_tokens=max_new_tokens, temperature=1.0, seed=0
    )
    own = judge(answerer.complete([Media(CLIP, CLIP)])[0], answerer.mode)
    subject = Subject(CLIP, CLIP, labels[0], own.prediction, own.rationale, ())
    (found,) = examine(answerer, [subject], labels)
    verdict: Verdict = {}
    notes = [NO_JUDGES]
    if judges is not None:
        # a note on judging is of no use where there is nothing to judge
        verdict, notes = ({}, []) if own.rationale is None else verdict_on(file, features, judges)
    answer, probability = _read(own, judges, labels)
    if answer is not None and answer not in labels:
        notes = [*notes, UNKNOWN_LABELS]
    likeliest = labels[int(np.argmax(found.own))]
    if own.prediction is not None and own.prediction not in labels:
        notes = [*notes, OTHER_LABEL.format(own.prediction, likeliest)]
    elif own.prediction is None and (own.well_formed or answerer.mode == "direct"):
        notes = [*notes, NO_LABEL.format(likeliest)]
    turned = found.forced.get("reversed")
    return Explanation(
        str(file.path),
        answerer.mode,
        own.prediction,
        own.rationale,
        _claims(found, verdict, judges, answer),
        answer,
        probability,
        _shares(found),
        absent,
        Said(found.muted.prediction, found.muted.rationale),
        Said(found.dark.prediction, found.dark.rationale),
        None if turned is None else labels[int(np.argmax(turned))],
        (*file.notes, *notes),
    )


def _read(
    own: Judgement, judges: Judges | None, labels: Sequence[str]
) -> tuple[str | None, float | None]:
    """The reader's answer and its probability among the labels; None without a rationale."""
    if judges is None or own.rationale is None:
        return None, None
    answer = judges.reader.answers([own.rationale], labels)[0]
    known = dict(
        zip(judges.reader.labels, judges.reader.probabilities([own.rationale])[0], strict=True)
    )
    total = sum(p for label, p in known.items() if label in labels) or 1.0
    return answer, float(known[answer] / total)


def _claims(
    found: Examined, verdict: Verdict, judges: Judges | None, answer: str | None
) -> tuple[ExplainedClaim, ...]:
    rationale = found.subject.rationale or ""
    made = claims(rationale)
    weights: Sequence[float | None] = [None] * len(made)
    if judges is not None and answer is not None:
        weights = judges.reader.claim_weights(rationale, answer)
    explained = []
    for claim, certainty, weight in zip(made, found.certainty, weights, strict=True):
        p = support(verdict, claim.attribute, claim.level, claim.negated)
        explained.append(
            ExplainedClaim(
                rationale[claim.start : claim.end],
                SIDE_OF[claim.attribute],
                claim.attribute,
                claim.level,
                claim.negated,
                _word(p),
                p,
                certainty,
                weight,
            )
        )
    return tuple(explained)


def _word(p: float | None) -> str:
    if p is None:
        return "not judged"
    if p >= SUPPORTED:
        return "supported"
    return "contradicted" if p < CONTRADICTED else "undecided"


def _shares(found: Examined) -> dict[str, float] | None:
    """Each modality's share of |phi|."""
    phi = {name: abs(float(v[0])) for name, v in contributions([found]).blank.items()}
    total = sum(phi.values())
    return {name: phi[name] / total for name in (VIDEO, AUDIO)} if total > 0 else None
