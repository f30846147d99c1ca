"""Refuses to evaluate a checkpoint on clips that it may have been trained on."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from r1omni.corpora.clip import Clip
from r1omni.lineage import PROVENANCE, read_provenance

# Corpora that list the clips of another one, in the same folds.
_SAME_CLIPS: Final[Mapping[str, str]] = {"mafw_compound": "mafw"}


def refuse_training_clips(directory: Path, clips: Iterable[Clip]) -> None:
    """Raise ValueError if the checkpoint or an ancestor of it may have been trained on a clip.

    DFEW's and MAFW's folds are a cross-validation: fold k trains on the other folds' test clips.
    mafw_compound and mafw list the same clips. A checkpoint without a record of its training is let
    through: `trained_on` is None for it.
    """
    seen = trained_on(directory) or {}
    for corpus, fold in sorted({(clip.corpus, clip.fold) for clip in clips}, key=str):
        folds = seen.get(_SAME_CLIPS.get(corpus, corpus), set())
        if folds and (fold is None or folds != {fold}):
            named = " and ".join(sorted(map(str, folds)))
            advice = f"evaluate it on fold {named}, or " if len(folds) == 1 else ""
            raise ValueError(
                f"{directory}: was trained on fold {named} of {corpus}, so test clips of fold "
                f"{fold} are among its training clips; {advice}train one on fold {fold}"
            )


def trained_on(directory: Path) -> dict[str, set[int | None]] | None:
    """Corpus -> folds of all training clips of a checkpoint and its ancestors; None: not recorded.

    mafw_compound is counted as mafw, whose clips it lists.
    Raises ValueError, naming the file, for a provenance.json that is not one.
    """
    record = read_provenance(directory)
    if record is None:
        return None
    found: dict[str, set[int | None]] = {}
    while record:
        corpora, parent = record.get("trained_on") or {}, record.get("parent") or {}
        if not isinstance(corpora, dict) or not isinstance(parent, dict):
            file = directory / PROVENANCE
            raise ValueError(f"{file}: expected objects for trained_on and parent, got {record}")
        for corpus in corpora:
            found.setdefault(_SAME_CLIPS.get(corpus, corpus), set()).add(record.get("fold"))
        record = parent
    return found
