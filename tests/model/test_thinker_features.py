"""The stage features with Qwen2.5-Omni: each clip's own size, whatever it is batched with."""

import os
from pathlib import Path

import pytest
import torch
from clip_files import LIMITS, write_clip
from test_features import _clip
from tiny_thinker import tiny_thinker

from r1omni.corpora.clip import write_manifest
from r1omni.media import preprocess
from r1omni.model.feature_store import FeatureStore
from r1omni.model.features import run_features

SIZES = ((64, 64), (128, 80), (56, 112), (64, 64), (96, 72))  # width, height


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[FeatureStore]]:
    """The same five clips, the third without sound, in batches of four and of one."""
    folder = tmp_path_factory.mktemp("ragged")
    clips = []
    for i, size in enumerate(SIZES):
        audio = None if i == 2 else ("aac", 16000, "mono")
        path = write_clip(folder / f"{i}.mp4", size=size, audio=audio, seed=i, seconds=0.5 + i / 2)
        clips.append(_clip(path, folder, audio is not None))
    write_manifest(clips, folder / "dfew.parquet")
    tiny_thinker().save(folder / "thinker", None)
    before = Path.cwd()
    found = []
    for batch_size in (4, 1):
        place = folder / str(batch_size)
        place.mkdir()
        os.chdir(place)
        try:
            run_features(
                folder / "dfew.parquet", folder, folder / "thinker", place / "out/dfew",
                batch_size=batch_size, workers=2, min_free_gb=0.0, limits=LIMITS,
            )  # fmt: skip
        finally:
            os.chdir(before)
        found.append(FeatureStore([place / "out/dfew"]))
    return folder, found


def test_features_are_what_the_clip_alone_gives(stores: tuple[Path, list[FeatureStore]]) -> None:
    folder, found = stores
    backbone = tiny_thinker()
    for i in range(len(SIZES)):
        clip = preprocess(folder / f"{i}.mp4", backbone.preparation)
        expected = backbone.encode([clip])[0]
        for store in found:
            (ours,) = store.load([f"dfew/{i}"])
            assert ours.keys() == expected.keys()
            assert all(torch.equal(ours[name], expected[name]) for name in expected)
        assert ("audio" in expected) == (i != 2)
        assert expected["seconds"].tolist() == pytest.approx([2 * (0.5 + i / 2) / 3])


def test_the_largest_clip_is_the_one_with_the_most_tokens(
    stores: tuple[Path, list[FeatureStore]],
) -> None:
    """By it a training announces its memory: the first clip's prompt may be far shorter."""
    ids = [f"dfew/{i}" for i in range(len(SIZES))]
    for store in stores[1]:
        counts = [sum(map(len, features.values())) for features in store.load(ids)]
        assert counts[0] < max(counts[:-1]) < max(counts)
        assert store.largest(ids) == ids[counts.index(max(counts))]
        assert store.largest(ids[:-1]) == ids[counts.index(max(counts[:-1]))]
        assert store.largest(ids[:1]) == ids[0]
        with pytest.raises(KeyError, match="'dfew/9' has no features in"):
            store.largest(["dfew/9"])
