"""What the judges make of one file: verdicts on what may be claimed of its face and voice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from r1omni.claims import Verdict
from r1omni.inference.files import NO_VIDEO, SOUND_ALONE, ReadFile
from r1omni.judges.acoustics import MEASURES, RATE, measures
from r1omni.judges.judge import ClaimJudge, read_judge
from r1omni.judges.pictures import picture_row
from r1omni.judges.reader import Reader, read_reader
from r1omni.model.feature_store import Features

SPOKEN_SECONDS: Final = 0.3  # of a voice, at least: one or two syllables; of less nothing is judged
TOO_SHORT: Final = (
    f"less than {SPOKEN_SECONDS} s of a voice: nothing that is said of it can be judged"
)
LEVEL_TOO_LOUD: Final = (
    "one clip says nothing of its microphone: another one's level is not corrected, so a claim of "
    "loudness may be judged wrongly"
)


@dataclass(frozen=True)
class Judges:
    """The judges of both sides and the reader."""

    sides: tuple[ClaimJudge, ...]
    reader: Reader


def read_judges(folder: Path) -> Judges | None:
    """The judges in a folder, None where it does not exist. Raises ValueError naming a bad file."""
    if not folder.is_dir():
        return None
    sides = read_judge(folder, "face"), read_judge(folder, "voice")
    return Judges(sides, read_reader(folder / "reader.json"))


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
    notes = []
    for side in judges.sides:
        if side.side == "voice":
            if file.waveform is None or not file.waveform.any():
                notes.append("no sound: nothing that is said of a voice can be judged")
                continue
            known = measures(file.waveform)
            if known["speech_share"] * len(file.waveform) / RATE < SPOKEN_SECONDS:
                notes.append(TOO_SHORT)
                continue
            row = np.array([known[name] for name in MEASURES])
            notes.append(LEVEL_TOO_LOUD)
        else:
            if NO_VIDEO in file.notes or SOUND_ALONE in file.notes:
                notes.append("no picture: nothing that is said of a face can be judged")
                continue
            row = picture_row(features)
            if len(row) != len(side.mean):
                notes.append("the face's judge was calibrated on other pictures: model or shape")
                continue
        found.update(side.verdicts(row[None], own_scale=False)[0])
    return found, notes
