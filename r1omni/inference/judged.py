"""What the judges make of one file: verdicts on what may be claimed of its face and voice."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from r1omni.claims import ATTRIBUTES, Verdict
from r1omni.inference.files import NO_VIDEO, ONE_COLOUR, SOUND_ALONE, ReadFile
from r1omni.judges.acoustics import MEASURES, RATE, measures
from r1omni.judges.judge import LEVELS, ClaimJudge, read_judge
from r1omni.judges.pictures import picture_row
from r1omni.judges.reader import Reader, read_reader
from r1omni.model.backbone import Backbone
from r1omni.model.feature_store import Features

SPOKEN_SECONDS: Final = 0.3  # of a voice, at least: one or two syllables; of less nothing is judged
TOO_SHORT: Final = (
    f"less than {SPOKEN_SECONDS} s of a voice: nothing that is said of it can be judged"
)
UNRELIABLE: Final = "no judge of the {} passed its reliability test: nothing of it can be judged"
UNKNOWN_LABELS: Final = (
    "the reader knows none of the labels that were asked for: it answers another"
)
NO_PICTURE: Final = frozenset({NO_VIDEO, SOUND_ALONE, ONE_COLOUR})  # notes on a file
LEVEL_TOO_LOUD: Final = (
    "one clip says nothing of its microphone: another one's level is not corrected, so a claim of "
    "loudness may be judged wrongly"
)
OTHER_TOWERS: Final = (
    "the face's judge was calibrated on the outputs of other towers than this model's, or of "
    "another version of their code: its verdicts may be wrong"
)


@dataclass(frozen=True)
class Judges:
    """The judges of both sides and the reader. `notes`: what to know of every verdict."""

    sides: tuple[ClaimJudge, ...]
    reader: Reader
    notes: tuple[str, ...] = ()

    def beside(self, backbone: Backbone) -> "Judges":
        """They, with a note if the face's judge was calibrated on other towers' outputs."""
        known = {side.towers for side in self.sides} - {None}
        other = known and known != {backbone.tower_fingerprint()}
        return replace(self, notes=(OTHER_TOWERS,) if other else ())


def read_judges(folder: Path) -> Judges | None:
    """The judges in a folder, None where it does not exist. Raises ValueError naming a bad file."""
    if not folder.is_dir():
        return None
    face = _checked(read_judge(folder, "face"), folder)
    voice = _checked(read_judge(folder, "voice"), folder)
    if len(voice.mean) != len(MEASURES):
        raise ValueError(
            f"{folder}/voice.safetensors: calibrated on {len(voice.mean)} measures of the sound, "
            f"this version has {len(MEASURES)}: run `r1omni repro judges` in the project"
        )
    return Judges((face, voice), read_reader(folder / "reader.json"))


def _checked(judge: ClaimJudge, folder: Path) -> ClaimJudge:
    """The judge, if its numbers are finite and fit together. Raises ValueError naming the file."""
    where = f"{folder}/{judge.side}.safetensors"
    if unknown := sorted(set(judge.probes) - set(ATTRIBUTES[judge.side])):
        raise ValueError(
            f"{folder}/{judge.side}.json: {', '.join(unknown)}: no attribute of a {judge.side}; "
            f"known: {', '.join(ATTRIBUTES[judge.side])}"
        )
    axes = np.zeros((len(judge.mean), 0)) if judge.components is None else judge.components
    kept = len(judge.mean) if judge.components is None else axes.shape[-1]
    shapes = [(judge.scale, judge.mean.shape), (axes, (len(judge.mean), axes.shape[-1]))]
    for probe in judge.probes.values():
        shapes += [(probe.weights, (kept, len(LEVELS))), (probe.bias, (len(LEVELS),))]
    for tensor, expected in [(judge.mean, (len(judge.mean),)), *shapes]:
        if tensor.shape != expected:
            raise ValueError(f"{where}: a tensor of the shape {tensor.shape}, expected {expected}")
        if not np.isfinite(tensor).all():
            raise ValueError(f"{where}: a number is not finite: run `r1omni repro judges`")
    if not (judge.scale > 0).all():
        raise ValueError(f"{where}: a scale is not above 0: run `r1omni repro judges`")
    return judge


def need_judges(folder: Path) -> Judges:
    """The judges in a folder. Raises ValueError where it does not exist, too."""
    judges = read_judges(folder)
    if judges is None:
        raise ValueError(
            f"{folder}: no such folder, and it is to hold judges and reader: run `r1omni "
            "repro judges` in the project, or name another folder with --judges"
        )
    return judges


def verdict_on(file: ReadFile, features: Features, judges: Judges) -> tuple[Verdict, list[str]]:
    """What the judges make of a file that `read_and_hear` read, and what to know of that."""
    found: dict[str, tuple[float, float, float]] = {}
    notes = list(judges.notes)
    for side in judges.sides:
        if not side.judged:
            notes.append(UNRELIABLE.format(side.side))
            continue
        if side.side == "voice":
            if file.waveform is None or not file.waveform.any():
                notes.append("no sound: nothing that is said of a voice can be judged")
                continue
            known = measures(file.waveform)
            if known["speech_share"] * len(file.waveform) / RATE < SPOKEN_SECONDS:
                notes.append(TOO_SHORT)
                continue
            row = np.array([known[name] for name in MEASURES])
            if "loudness" in side.judged:
                notes.append(LEVEL_TOO_LOUD)
        else:
            if NO_PICTURE & set(file.notes):
                notes.append("no picture: nothing that is said of a face can be judged")
                continue
            row = picture_row(features)
            if len(row) != len(side.mean):
                notes.append("the face's judge was calibrated on other pictures: model or shape")
                continue
        found.update(side.verdicts(row[None], own_scale=False)[0])
    return found, notes
