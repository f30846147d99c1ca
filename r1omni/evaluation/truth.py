"""Compares rationales with the synthetic corpora's side files. Only evaluation reads those."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from r1omni.corpora.synthetic.attributes import ATTRIBUTES, FACE, UNSEEN
from r1omni.corpora.synthetic.texts import statements
from r1omni.emotions import EMOTIONS
from r1omni.evaluation.predictions import Prediction
from r1omni.evaluation.results import RationaleTruth, SceneFollowing

COLUMNS: Final[tuple[str, ...]] = ("clip_id", "emotion", "label", "scene", *ATTRIBUTES)


@dataclass(frozen=True)
class Truth:
    """A clip as it was rendered: its emotion, its levels by attribute, and its scene."""

    emotion: str
    scene: int  # or UNSEEN
    levels: Mapping[str, int]


def read_truth(paths: Iterable[Path]) -> dict[str, Truth]:
    """The side files' rows by clip id. Raises ValueError, naming the file, for missing columns."""
    truth: dict[str, Truth] = {}
    for path in paths:
        table = pd.read_parquet(path)
        missing = [name for name in COLUMNS if name not in table.columns]
        if missing:
            raise ValueError(f"{path}: missing columns {missing}; a side file has {list(COLUMNS)}")
        for row in table.to_dict("records"):
            levels = {name: int(row[name]) for name in ATTRIBUTES}
            truth[str(row["clip_id"])] = Truth(str(row["emotion"]), int(row["scene"]), levels)
    return truth


def rationale_truth(
    rows: Iterable[Prediction], truth: Mapping[str, Truth]
) -> RationaleTruth | None:
    """The share of the rationales' statements that agree with the side file, by face and voice.

    None if no row is both reasoned and in a side file. A completion without a well-formed rationale
    makes no statement.
    """
    known = [row for row in rows if row.mode == "reasoned" and row.clip_id in truth]
    if not known:
        return None
    agree: dict[str, list[bool]] = {"face": [], "voice": []}
    for row in known:
        for attribute, level in statements(row.rationale or "").items():
            side = "face" if attribute in FACE else "voice"
            agree[side].append(truth[row.clip_id].levels[attribute] == level)
    face, voice = agree["face"], agree["voice"]
    return RationaleTruth(
        face=_share(face),
        voice=_share(voice),
        n_statements=len(face + voice),
        n_face=len(face),
        n_voice=len(voice),
    )


def scene_following(
    rows: Iterable[Prediction], truth: Mapping[str, Truth], labels: Collection[str]
) -> SceneFollowing | None:
    """The share of clips predicted as the scene's emotion, among those whose label is another.

    Scene i belongs to emotion i. Only scenes of the corpus's `labels` count. None without such
    clips.
    """
    follows = [
        row.prediction == scene_emotion
        for row in rows
        if row.clip_id in truth
        and truth[row.clip_id].scene != UNSEEN
        and (scene_emotion := EMOTIONS[truth[row.clip_id].scene]) != row.label
        and scene_emotion in labels
    ]
    share = _share(follows)
    return None if share is None else SceneFollowing(share=share, n=len(follows))


def _share(flags: list[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None
