"""The test clips of a predictions table, and the digest by which MLflow knows them."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from r1omni.corpora.clip import Clip, write_manifest
from r1omni.corpora.sets import Member, write_set
from r1omni.evaluation.measured import measured_sets

CLIPS = [
    Clip(f"dfew/{i}", "dfew", f"{i}.mp4", "happy", split, 1, None, None, 1.0, 8.0, 8, True, f"{i}")
    for i, split in enumerate(("train", "test", "test"))
]


def measured(folder: Path, clips: list[Clip], predicted: list[str]):
    """The measured sets of predictions for these ids, after the clips were written."""
    manifest = folder / "dfew.parquet"
    write_manifest(clips, manifest)
    write_set(folder / "test.json", [Member("dfew", manifest, None, (), "c")])
    table = pd.DataFrame({"clip_id": predicted, "corpus": [i.split("/")[0] for i in predicted]})
    table.to_parquet(folder / "grpo.parquet")
    return measured_sets(folder / "grpo.parquet", folder / "test.json")


def test_the_digest_is_that_of_the_predicted_clips_alone(tmp_path: Path) -> None:
    (found,) = measured(tmp_path, CLIPS, ["dfew/1", "dfew/2"])
    assert (found.corpus, found.n, found.source) == ("dfew", 2, tmp_path / "dfew.parquet")
    (other_train,) = measured(
        tmp_path, [replace(CLIPS[0], sha256="x"), *CLIPS[1:]], ["dfew/1", "dfew/2"]
    )
    assert other_train.digest == found.digest
    changes = ({"sha256": "x"}, {"label": "sad"}, {"start": 0.5, "end": 1.0})
    for change in changes:
        clips = [*CLIPS[:2], replace(CLIPS[2], **change)]
        (other,) = measured(tmp_path, clips, ["dfew/1", "dfew/2"])
        assert other.digest != found.digest, change
    (fewer,) = measured(tmp_path, CLIPS, ["dfew/1"])
    assert fewer.digest != found.digest


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        ("dfew/9", "grpo.parquet: 1 clips, such as dfew/9, are not in .*dfew.parquet"),
        ("mafw/1", "grpo.parquet: mafw is no test corpus: dfew"),
    ],
)
def test_predictions_for_other_clips_are_refused(
    tmp_path: Path, predicted: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measured(tmp_path, CLIPS, ["dfew/1", predicted])
