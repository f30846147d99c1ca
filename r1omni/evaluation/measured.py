"""The test clips on which a model's predictions were made, as MLflow notes them."""

from pathlib import Path

import pandas as pd

from r1omni.corpora.clip import read_manifest
from r1omni.corpora.sets import read_set
from r1omni.evaluation.held_out import dataset_digest
from r1omni.tracking.provenance import MeasuredSet


def measured_sets(predictions: Path, test_set: Path) -> list[MeasuredSet]:
    """One entry for each corpus of the predictions table, with the digest of its clips.

    `test_set`: the list of test corpora, as `r1omni sets` writes it. Raises ValueError, naming the
    file, for clips that no manifest of the list has.
    """
    manifests = {member.corpus: member.manifest for member in read_set(test_set)}
    table = pd.read_parquet(predictions, columns=["corpus", "clip_id"])
    return [
        _measured(str(corpus), set(rows), manifests, predictions)
        for corpus, rows in table.groupby("corpus")["clip_id"]
    ]


def _measured(
    corpus: str, clip_ids: set[str], manifests: dict[str, Path], predictions: Path
) -> MeasuredSet:
    if corpus not in manifests:
        raise ValueError(f"{predictions}: {corpus} is no test corpus: {', '.join(manifests)}")
    clips = [clip for clip in read_manifest(manifests[corpus]) if clip.clip_id in clip_ids]
    if missing := clip_ids.difference(clip.clip_id for clip in clips):
        raise ValueError(
            f"{predictions}: {len(missing)} clips, such as {min(missing)}, are not in "
            f"{manifests[corpus]}"
        )
    return MeasuredSet(corpus, dataset_digest(clips), len(clips), manifests[corpus])
