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
from r1omni.evaluation.audit.grounding import CONTRADICTED, SUPPORTED, support
from r1omni.inference.files import NO_VIDEO, ReadFile, Refusal
from r1omni.inference.reading import read_files
from r1omni.judges.acoustics import MEASURES, measures
from r1omni.judges.judge import ClaimJudge, read_judge
from r1omni.judges.measuring import Hearing, hear_clip
from r1omni.judges.pictures import picture_row
from r1omni.judges.reader import Reader, read_reader
from r1omni.judging import Judgement, judge
from r1omni.limits import Limits
from r1omni.media import Preparation, TowerInputs
from r1omni.model.backbone import Backbone
from r1omni.model.feature_store import Features

CLIP: Final = "clip"
LEVEL_TOO_LOUD: Final = (
    "one clip says nothing of its microphone: another one's level is not corrected, so a claim of "
    "loudness may be judged wrongly"
)
NO_JUDGES: Final = "no judges: run `r1omni repro judges` in the project, or pass --judges FOLDER"


@dataclass(frozen=True)
class Judges:
    """The judges of both sides and the reader."""

    sides: tuple[ClaimJudge, ...]
    reader: Reader


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

    `shares` of |phi| sum to 1, None where neither modality changes anything; absent is darkness and
    silence. `reversed`: the likeliest label behind the rationale with every claim reversed, None
    where nothing can be reversed.
    """

    file: str
    mode: str
    prediction: str | None
    rationale: str | None
    claims: tuple[ExplainedClaim, ...]
    reader: str | None
    reader_probability: float | None
    shares: Mapping[str, float] | None
    muted: Said
    dark: Said
    reversed: str | None
    notes: tuple[str, ...]

    def as_json(self) -> str:
        """One line of JSON."""
        return json.dumps({**asdict(self), "absent": "darkness and silence"}, ensure_ascii=False)


@dataclass(frozen=True)
class _Read:
    """The features of one clip, as a store of features."""

    features: Features

    def load(self, clip_ids: Sequence[str]) -> list[Features]:
        """Its features, however often."""
        return [self.features] * len(clip_ids)


def read_judges(folder: Path) -> Judges | None:
    """The judges in a folder, None where it does not exist. Raises ValueError naming a bad file."""
    if not folder.is_dir():
        return None
    sides = read_judge(folder, "face"), read_judge(folder, "voice")
    return Judges(sides, read_reader(folder / "reader.json"))


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
    hearing = Hearing(backbone.preparation.audio_seconds)
    with (
        closing(read_files(paths, backbone.preparation, limits)) as read,
        closing(read_files(paths, hearing, limits, _hear)) as heard,
    ):
        for file in files:
            if isinstance(file, Refusal):
                yield file
                continue
            seen, sound = next(read), next(heard)
            if isinstance(seen, Refusal):
                yield seen
            else:
                yield _explain(seen, sound, backbone, judges, labels, max_new_tokens)


def _hear(path: Path, preparation: Preparation, max_pixels: int) -> ReadFile:
    """The waveform in place of the spectrogram."""
    if not isinstance(preparation, Hearing):
        raise TypeError(f"expected Hearing, found {type(preparation).__name__}")
    waveform = hear_clip(path, preparation, max_pixels)
    pixels = preparation.without_picture()
    return ReadFile(path, TowerInputs(pixels, waveform, waveform.size > 0), ())


def _explain(
    file: ReadFile,
    sound: ReadFile | Refusal,
    backbone: Backbone,
    judges: Judges | None,
    labels: Sequence[str],
    max_new_tokens: int,
) -> Explanation:
    features = backbone.encode([file.inputs])[0]
    answerer = BackboneAnswerer(
        backbone, _Read(features), max_new_tokens=max_new_tokens, temperature=1.0, seed=0
    )
    own = judge(answerer.complete([Media(CLIP, CLIP)])[0], answerer.mode)
    subject = Subject(CLIP, CLIP, labels[0], own.prediction, own.rationale, ())
    (found,) = examine(answerer, [subject], labels)
    verdict, notes = _verdict(file, sound, features, judges)
    answer, probability = _read(own, judges, labels)
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
        Said(found.muted.prediction, found.muted.rationale),
        Said(found.dark.prediction, found.dark.rationale),
        None if turned is None else labels[int(np.argmax(turned))],
        (*file.notes, *notes),
    )


def _verdict(
    file: ReadFile, sound: ReadFile | Refusal, features: Features, judges: Judges | None
) -> tuple[Verdict, list[str]]:
    """What the judges make of the clip, and what to know of that."""
    if judges is None:
        return {}, [NO_JUDGES]
    found: dict[str, tuple[float, float, float]] = {}
    notes = []
    for side in judges.sides:
        if side.side == "voice":
            if isinstance(sound, Refusal):
                notes.append(f"the voice is not judged: {sound.reason}")
                continue
            waveform = sound.inputs.mel
            if not waveform.any():
                notes.append("no sound: nothing that is said of a voice can be judged")
                continue
            known = measures(waveform)
            row = np.array([known[name] for name in MEASURES])
            notes.append(LEVEL_TOO_LOUD)
        else:
            if NO_VIDEO in file.notes:
                notes.append("no picture: nothing that is said of a face can be judged")
                continue
            row = picture_row(features)
            if len(row) != len(side.mean):
                notes.append("the face's judge was calibrated on another model's features")
                continue
        found.update(side.verdicts(row[None], own_scale=False)[0])
    return found, notes


def _read(
    own: Judgement, judges: Judges | None, labels: Sequence[str]
) -> tuple[str | None, float | None]:
    """The reader's answer and its probability; None for a model that writes no rationale."""
    if judges is None or own.rationale is None:
        return None, None
    answer = judges.reader.answers([own.rationale], labels)[0]
    place = judges.reader.labels.index(answer)
    return answer, float(judges.reader.probabilities([own.rationale])[0, place])


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
