"""RAVDESS: no lists, the file name says it all (Livingstone & Russo 2018, PLoS ONE 13(5)).

`MM-CC-EE-II-SS-RR-AA.mp4`: modality, channel, emotion, intensity, statement, repetition, actor.
The evaluation takes `01-01-*` only: sound and picture, speech.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from r1omni.corpora.clip import Reject
from r1omni.corpora.ingestion.lists import CorpusError, Listed, reject, shown
from r1omni.corpora.record import Corpus
from r1omni.emotions import in_order

_NAME = re.compile(r"(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)-(\d\d)\.(mp4|avi|wav)", re.I)
CODES: Final = {
    "01": "neutral", "02": "calm", "03": "happy", "04": "sad",
    "05": "angry", "06": "fear", "07": "disgust", "08": "surprise",
}  # fmt: skip
# part of the name -> its codes; the emotion is looked up in CODES
_LAST_CODES = {"modality": 3, "channel": 2, "intensity": 2, "statement": 2, "repetition": 2}
_MODALITIES = {"01": "sound and picture", "02": "picture only", "03": "sound only"}
_CHANNELS = {"01": "speech", "02": "song"}


def read_rows(root: Path, fold: int) -> Iterator[Listed | Reject]:
    """Every file in the actors' folders, all of them test clips; RAVDESS has no folds.

    Raises CorpusError if there is no actor's folder.
    """
    del fold
    folders = sorted(p for pattern in ("Actor_[0-9][0-9]", "*/Actor_[0-9][0-9]")
                     for p in root.glob(pattern) if p.is_dir())  # fmt: skip
    if not folders:
        raise CorpusError(
            f"{root}: no RAVDESS folder Actor_01 … Actor_24; "
            "expected Actor_XX/ or Video_Speech_Actor_XX/Actor_XX/"
        )
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if not path.name.startswith("."):
                yield _read_name(folder.name, path.relative_to(root).as_posix())


def _read_name(folder: str, path: str) -> Listed | Reject:
    name = path.rpartition("/")[2]
    match = _NAME.fullmatch(name)
    if match is None:
        detail = f"{shown(name)}; expected seven two-digit parts like 01-01-03-01-02-01-12.mp4"
        return reject("ravdess", path, "malformed_row", detail, path)
    modality, channel, emotion, intensity, statement, repetition, actor, suffix = match.groups()
    codes = dict(zip(_LAST_CODES, (modality, channel, intensity, statement, repetition),
                     strict=True))  # fmt: skip
    wrong = [f"{part} {code}" for part, code in codes.items()
             if not 1 <= int(code) <= _LAST_CODES[part]]  # fmt: skip
    if f"Actor_{actor}" != folder or not 1 <= int(actor) <= 24:
        wrong.append(f"actor {actor} in folder {folder}")
    if wrong:
        detail = f"{shown(name)}: no such {', '.join(wrong)}"
        return reject("ravdess", path, "malformed_row", detail, path)
    if (modality, channel) != ("01", "01") or suffix.casefold() == "wav":
        detail = f"{_MODALITIES[modality]}, {_CHANNELS[channel]}; evaluated: 01-01-*.mp4"
        return reject("ravdess", path, "wrong_modality", detail, path)
    if emotion not in CODES:
        known = ", ".join(f"{c} {e}" for c, e in CODES.items())
        detail = f"unknown emotion code {emotion} for ravdess; known: {known}"
        return reject("ravdess", path, "unknown_label", detail, path)
    return Listed(
        f"ravdess/{name.rpartition('.')[0]}", (path,), CODES[emotion], "test", path,
        subject=folder,
    )  # fmt: skip


CORPUS: Final = Corpus(  # counts: PLoS ONE 13(5)
    name="ravdess",
    title="RAVDESS",
    about="RAVDESS: 7,356 recordings of 24 actors, 1,440 of them speech with sound and picture",
    ask="https://zenodo.org/records/1188976 (CC BY-NC-SA 4.0)",
    layout="Actor_XX/01-01-EE-II-SS-RR-AA.mp4 or Video_Speech_Actor_XX/Actor_XX/…",
    read_rows=read_rows,
    splits=("test",),
    labels=in_order(CODES.values()),
    ids=CODES,
    rows=(7356, 4320, 2880, 1440),
    usable=1440,
    label_counts={label: 96 if label == "neutral" else 192 for label in CODES.values()},
    subjects=24,
)
