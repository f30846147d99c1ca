"""Refuses to evaluate a checkpoint on clips that it may have been trained on."""

from collections.abc import Collection, Iterable
from pathlib import Path

from r1omni.corpora.clip import Clip
from r1omni.lineage import PROVENANCE, read_provenance


def refuse_training_clips(
    directory: Path, clips: Iterable[Clip], divided: Collection[str] = ()
) -> None:
    """Raise ValueError if the checkpoint or an ancestor of it may have been trained on a clip.

    A cross-validation's fold k trains on the other folds' test clips. Corpora that are `divided`
    have no folds, but train clips of their own, and no training reads the others. A checkpoint
    without a record of its training is let through: `trained_on` is None for it.
    """
    seen = trained_on(directory) or {}
    for corpus, fold in sorted({(clip.corpus, clip.fold) for clip in clips}, key=str):
        folds = seen.get(corpus, set())
        if fold is None and corpus in divided:
            continue
        if folds and (fold is None or folds != {fold}):
            named = " and ".join(sorted(map(str, folds)))
            advice = f"evaluate it on fold {named}, or " if len(folds) == 1 else ""
            raise ValueError(
                f"{directory}: was trained on fold {named} of {corpus}, so test clips of fold "
                f"{fold} are among its training clips; {advice}train one on fold {fold}"
            )


def trained_on(directory: Path) -> dict[str, set[int | None]] | None:
    """Corpus -> folds of all training clips of a checkpoint and its ancestors; None: not recorded.

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
            found.setdefault(corpus, set()).add(record.get("fold"))
        record = parent
    return found
