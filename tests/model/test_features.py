"""The feature cache: no skew, only new clips, the same bytes after a kill, and the store."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from clip_files import LIMITS, write_clip
from safetensors.torch import load_file, save_file

from r1omni.corpora.clip import Clip, write_manifest
from r1omni.media import decode
from r1omni.model import features
from r1omni.model.checksums import SUMS, sha256_of, write_sums
from r1omni.model.feature_rejects import (
    REJECTS,
    FeatureReject,
    read_feature_rejects,
    without_rejects,
    write_feature_rejects,
)
from r1omni.model.feature_store import INDEX, FeatureStore, join_rows, read_shard, write_shard
from r1omni.model.features import run_features
from r1omni.model.kept_shards import KeptShards

FEATURES = {"batch_size": 4, "workers": 2, "min_free_gb": 0.0}
BATCHES_OF_THREE = FEATURES | {"batch_size": 3}
N_CLIPS = 10


def _clip(path: Path, root: Path, has_audio: bool = True) -> Clip:
    return Clip(
        clip_id=f"dfew/{path.stem}",
        corpus="dfew",
        path=str(path.relative_to(root)),
        label="happiness",
        split="train",
        fold=1,
        subject=None,
        rationale=None,
        duration=1.0,
        fps=8.0,
        n_frames=8,
        has_audio=has_audio,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> tuple[Path, list[Clip]]:
    """Ten clips, the fourth of them without audio, the fifth another size."""
    root = tmp_path_factory.mktemp("raw")
    clips = []
    for i in range(N_CLIPS):
        audio = None if i == 3 else ("aac", 16000, "mono")
        size = (80, 48) if i == 4 else (64, 64)
        path = write_clip(root / f"{i}.mp4", audio=audio, size=size, seed=i)
        clips.append(_clip(path, root, audio is not None))
    return root, clips


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory) -> Path:
    model, processor = tiny.model, tiny.processor
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def computed(raw, checkpoint, tmp_path_factory) -> Path:
    """A folder in which the features of all ten clips have been computed."""
    root, clips = raw
    folder = tmp_path_factory.mktemp("computed")
    before = Path.cwd()
    os.chdir(folder)
    try:
        write_manifest(clips, folder / "dfew.parquet")
        run_features(
            folder / "dfew.parquet",
            root,
            checkpoint,
            folder / "out/dfew",
            **FEATURES,
            limits=LIMITS,
        )
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def clip_bytes(computed) -> int:
    """What one clip's features take in half precision."""
    batch = FeatureStore([computed / "out/dfew"]).load(["dfew/0"])
    return sum(2 * x.numel() for x in batch[0].values())


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_features_are_what_one_clip_at_a_time_gives(tiny, raw, computed):
    model, processor = tiny.model, tiny.processor
    root, clips = raw
    store = FeatureStore([computed / "out/dfew"])
    assert len(store) == N_CLIPS
    for clip in clips:
        media = decode(root / clip.path, processor.media.num_frames)
        pixels = torch.from_numpy(processor.frames_to_pixels(media.frames))[None]
        mel = torch.from_numpy(processor.waveform_to_mel(media.waveform))[None]
        with torch.inference_mode():
            vision, audio = model.encode_vision(pixels), model.encode_audio(mel)
        (found,) = store.load([clip.clip_id])
        for name, exact in (("vision", vision[0]), ("audio", audio[0])):
            assert found[name].dtype == torch.float16
            torch.testing.assert_close(found[name].float(), exact, atol=2e-3, rtol=1e-3)


def test_a_batch_comes_in_the_order_asked_for(computed):
    store = FeatureStore([computed / "out/dfew"])
    ids = ["dfew/7", "dfew/3", "dfew/7"]
    batch = store.load(ids)
    for found, clip_id in zip(batch, ids, strict=True):
        (alone,) = store.load([clip_id])
        assert found.keys() == alone.keys()
        assert all(torch.equal(found[name], alone[name]) for name in alone)
    assert not torch.equal(batch[0]["vision"], batch[1]["vision"])


def test_the_index_names_every_clip_and_the_bytes_lie_on_disk_once(computed):
    index = pd.read_parquet(computed / "out/dfew" / INDEX)
    assert index.clip_id.tolist() == [f"dfew/{i}" for i in range(N_CLIPS)]
    assert index.key.is_unique
    assert index.has_audio.tolist() == [i != 3 for i in range(N_CLIPS)]
    shards = sorted((computed / "out/dfew").glob("*.safetensors"))
    assert {path.name for path in shards} == set(index["shard"])
    assert [path.stat().st_nlink for path in shards] == [2] * len(shards)


def test_a_clip_without_features_is_named_with_the_folder(computed):
    store = FeatureStore([computed / "out/dfew"])
    assert "dfew/3" in store
    assert "dfew/99" not in store
    with pytest.raises(KeyError, match=r"'dfew/99' has no features in .*out/dfew"):
        store.load(["dfew/1", "dfew/99"])


def test_only_new_clips_are_computed(tiny, raw, checkpoint, computed, tmp_path, monkeypatch):
    """The files of the old clips are gone, so they cannot have been decoded a second time."""
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    new_root, out, manifest = tmp_path / "raw", tmp_path / "out/dfew", tmp_path / "m.parquet"
    new_root.mkdir()
    for clip in clips:
        os.link(root / clip.path, new_root / clip.path)
    old = [clip for i, clip in enumerate(clips) if i % 3]
    write_manifest(old, manifest)
    run_features(manifest, new_root, checkpoint, out, **FEATURES, limits=LIMITS)
    for clip in old:
        (new_root / clip.path).unlink()
    write_manifest(clips, manifest)
    run_features(manifest, new_root, checkpoint, out, **FEATURES, limits=LIMITS)
    assert _files(out) == _files(computed / "out/dfew")  # no trace of the history
    kept = sorted(path.name for path in (tmp_path / ".state/features/dfew").iterdir())
    shards = sorted(path.name for path in out.glob("*.safetensors"))
    assert kept == sorted([*shards, *(f"{Path(name).stem}.sha256" for name in shards)])


def test_other_towers_mean_other_features(tiny, raw, checkpoint, computed, tmp_path, monkeypatch):
    import copy

    root, clips = raw
    monkeypatch.chdir(tmp_path)
    model, processor = copy.deepcopy(tiny.model), tiny.processor
    with torch.no_grad():
        next(model.model.audio_tower.parameters()).add_(0.1)
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    write_manifest(clips[:2], tmp_path / "m.parquet")
    out = tmp_path / "out/mafw"
    run_features(tmp_path / "m.parquet", root, tmp_path / "other", out, **FEATURES, limits=LIMITS)
    ours, theirs = FeatureStore([computed / "out/dfew"]), FeatureStore([out])
    (before,), (after,) = ours.load(["dfew/0"]), theirs.load(["dfew/0"])
    assert not torch.equal(before["audio"], after["audio"])
    table = pd.read_parquet(out / INDEX)
    table.assign(clip_id=["mafw/0", "mafw/1"]).to_parquet(out / INDEX)
    write_sums(out)
    with pytest.raises(ValueError, match="features of different towers do not mix"):
        FeatureStore([computed / "out/dfew", out])


def test_two_clips_with_the_same_content_share_their_row(raw, checkpoint, tmp_path, monkeypatch):
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    write_manifest([clips[0], replace(clips[0], clip_id="dfew/copy")], tmp_path / "m.parquet")
    run_features(
        tmp_path / "m.parquet", root, checkpoint, tmp_path / "out", **FEATURES, limits=LIMITS
    )
    index = pd.read_parquet(tmp_path / "out" / INDEX)
    assert index["row"].tolist() == [0, 0]
    assert index.key.nunique() == 1


def test_a_surplus_tensor_is_refused_by_name_unless_allowed(
    raw, checkpoint, computed, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    root, clips = raw
    write_manifest(clips, tmp_path / "m.parquet")
    copy = Path(shutil.copytree(checkpoint, tmp_path / "surplus"))
    weights = copy / "model.safetensors"
    save_file(load_file(weights) | {"model.vision_resampler.weight": torch.zeros(3)}, weights)
    arguments = (tmp_path / "m.parquet", root, copy, tmp_path / "features")
    with pytest.raises(ValueError, match=r"unexpected tensor: model\.vision_resampler\.weight"):
        run_features(*arguments, **FEATURES, limits=LIMITS)
    run_features(*arguments, **FEATURES, limits=LIMITS, allow=["model.vision_resampler.weight"])
    assert _files(tmp_path / "features") == _files(computed / "out/dfew")


def test_no_clips_make_an_empty_store(raw, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_manifest([], tmp_path / "m.parquet")
    run_features(
        tmp_path / "m.parquet",
        raw[0],
        checkpoint,
        tmp_path / "out",
        **FEATURES,
        limits=LIMITS,
    )
    assert len(FeatureStore([tmp_path / "out"])) == 0


def _links(clips: list[Clip], root: Path, folder: Path) -> Path:
    """A root whose files may be replaced one by one."""
    folder.mkdir()
    for clip in clips:
        os.link(root / clip.path, folder / clip.path)
    return folder


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_a_clip_that_no_longer_decodes_is_a_reject_and_the_rest_goes_on(
    raw, checkpoint, computed, tmp_path, monkeypatch, caplog
):
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    linked = _links(clips, root, tmp_path / "raw")
    _replace(linked / "1.mp4", b"rubbish")
    write_manifest(clips, tmp_path / "m.parquet")
    out = tmp_path / "out"
    arguments = (tmp_path / "m.parquet", linked, checkpoint, out)
    run_features(*arguments, **FEATURES, limits=LIMITS)
    assert "1 of 10 clips do not decode; the first, 1.mp4: is text, not media" in caplog.text
    reject = FeatureReject("dfew/1", "1.mp4", "is text, not media")
    assert read_feature_rejects(out) == [reject]
    left = without_rejects(clips, [out])
    assert [clip.clip_id for clip in left] == [f"dfew/{i}" for i in range(N_CLIPS) if i != 1]
    assert "1 of 10 clips have no features and are left out; the first, dfew/1" in caplog.text
    store, whole = FeatureStore([out]), FeatureStore([computed / "out/dfew"])
    for clip in left:
        (ours,), (theirs,) = store.load([clip.clip_id]), whole.load([clip.clip_id])
        torch.testing.assert_close(ours["vision"], theirs["vision"], atol=2e-3, rtol=1e-3)
    assert "dfew/1" not in store

    _replace(linked / "1.mp4", (root / "1.mp4").read_bytes())  # mended: the next run tries again
    run_features(*arguments, **FEATURES, limits=LIMITS)
    assert len(FeatureStore([out])) == N_CLIPS
    assert read_feature_rejects(out) == []
    assert without_rejects(clips, [out]) == clips


def test_a_clip_that_takes_too_long_is_a_reject_and_the_rest_goes_on(
    raw, checkpoint, tmp_path, monkeypatch
):
    """A pipe that nobody writes into: a file on a dead network drive hangs like that."""
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    linked = _links(clips, root, tmp_path / "raw")
    real = Path.is_file
    (linked / "7.mp4").unlink()
    os.mkfifo(linked / "7.mp4")
    monkeypatch.setattr(Path, "is_file", lambda path: path.is_fifo() or real(path))
    write_manifest(clips, tmp_path / "m.parquet")
    limits = replace(LIMITS, timeout_seconds=5.0)
    out = tmp_path / "out"
    run_features(tmp_path / "m.parquet", linked, checkpoint, out, **BATCHES_OF_THREE, limits=limits)
    assert read_feature_rejects(out) == [FeatureReject("dfew/7", "7.mp4", "not decoded within 5 s")]
    assert len(FeatureStore([out])) == N_CLIPS - 1


def test_more_than_a_tenth_of_clips_that_do_not_decode_stop_the_stage(
    raw, checkpoint, tmp_path, monkeypatch
):
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    linked = _links(clips, root, tmp_path / "raw")
    for name in ("1.mp4", "6.mp4"):
        _replace(linked / name, b"rubbish")
    write_manifest(clips, tmp_path / "m.parquet")
    out = tmp_path / "out"
    arguments = (tmp_path / "m.parquet", linked, checkpoint, out)
    told = r"m\.parquet: 2 of 10 clips do not decode; the first, 1\.mp4: is text, not media"
    with pytest.raises(ValueError, match=told):
        run_features(*arguments, **FEATURES, limits=LIMITS)
    assert not out.exists()
    _replace(linked / "1.mp4", (root / "1.mp4").read_bytes())  # the next run tries them again
    run_features(*arguments, **FEATURES, limits=LIMITS)
    assert [reject.path for reject in read_feature_rejects(out)] == ["6.mp4"]


def test_a_clip_that_is_gone_is_named_before_anything_is_decoded(
    raw, checkpoint, tmp_path, monkeypatch
):
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    linked = _links(clips, root, tmp_path / "raw")
    (linked / "3.mp4").unlink()
    write_manifest(clips, tmp_path / "m.parquet")
    arguments = (tmp_path / "m.parquet", linked, checkpoint, tmp_path / "out")
    with pytest.raises(ValueError, match=r"m\.parquet: lists 1 clips that are gone.*raw/3\.mp4"):
        run_features(*arguments, **FEATURES, limits=LIMITS)


def test_sound_that_is_longer_than_the_model_hears_is_told(
    raw, checkpoint, tmp_path, monkeypatch, caplog
):
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    longer = [replace(clips[0], audio_duration=2.5), replace(clips[1], audio_duration=2.1)]
    write_manifest(longer, tmp_path / "m.parquet")
    arguments = (tmp_path / "m.parquet", root, checkpoint, tmp_path / "out")
    run_features(*arguments, **FEATURES, limits=LIMITS)
    assert "1 of 2 clips have more sound than the model hears: cut after 2 s" in caplog.text


def test_a_clip_in_two_folders_is_refused(computed):
    folder = computed / "out/dfew"
    with pytest.raises(ValueError, match="'dfew/0' has features in"):
        FeatureStore([folder, folder])


def test_a_folder_without_features_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"index\.parquet: no such index of features"):
        FeatureStore([tmp_path])


def test_a_shard_comes_back_as_it_was_and_a_broken_one_is_named(tmp_path):
    """Clips of different lengths, one of them without sound, and numbers beside them."""
    rows = [
        {"video": torch.arange(8).reshape(4, 2).half(), "audio": torch.ones(3, 2).half()},
        {"video": torch.arange(4).reshape(2, 2).half(), "grid": torch.tensor([[1, 2, 3]])},
        {"audio": torch.zeros(1, 2).half()},
    ]
    write_shard(join_rows(("a", "b", "c"), rows), tmp_path / "s.safetensors")
    back = read_shard(tmp_path / "s.safetensors")
    assert back.keys == ("a", "b", "c")
    for i, row in enumerate(rows):
        found = back.row(i)
        assert found.keys() == row.keys()
        for name, tensor in row.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
    (tmp_path / "s.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"s\.safetensors: not a shard of features"):
        read_shard(tmp_path / "s.safetensors")


def test_a_kept_shard_of_an_older_layout_is_made_again(tmp_path, caplog):
    """Without offsets, as shards were before clips could differ in length."""
    path = tmp_path / "a.safetensors"
    save_file({"vision": torch.zeros(1, 2)}, path, metadata={"keys": json.dumps(["k"])})
    path.with_suffix(".sha256").write_text(sha256_of(path))
    kept = KeptShards(tmp_path)
    assert "k" not in kept
    assert f"{path}: not a shard of features" in caplog.text
    assert "it is made again" in caplog.text


def _flip_a_byte(path: Path) -> None:
    """One bit of damage in place: every hard link to the file sees it."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def test_a_flipped_byte_in_a_shard_is_refused_by_its_name_with_the_way_to_heal_it(
    computed, tmp_path
):
    out = Path(shutil.copytree(computed / "out/dfew", tmp_path / "dfew"))
    (shard,) = out.glob("*.safetensors")
    sound = FeatureStore([out])
    sound.load(["dfew/1"])  # opened once, before the damage
    _flip_a_byte(shard)
    with pytest.raises(ValueError, match=rf"{shard.name}: is damaged: .*doctor --cache --remove"):
        FeatureStore([out]).load(["dfew/1"])
    shard.unlink()
    with pytest.raises(ValueError, match=rf"{shard.name}: cannot be read: No such file"):
        FeatureStore([out]).load(["dfew/1"])


@pytest.mark.parametrize("table", [INDEX, REJECTS])
def test_a_flipped_byte_in_a_table_of_the_features_is_refused_by_its_name(
    computed, tmp_path, table
):
    """The flipped byte stands in a clip's name, so the table itself is still parquet."""
    out = Path(shutil.copytree(computed / "out/dfew", tmp_path / "dfew"))
    write_feature_rejects([FeatureReject("dfew/q", "q.mp4", "is text, not media")], out)
    for name in (INDEX, REJECTS):
        pd.read_parquet(out / name).to_parquet(out / name, compression="none")
    write_sums(out)
    assert len(FeatureStore([out])) == N_CLIPS
    assert [reject.path for reject in read_feature_rejects(out)] == ["q.mp4"]
    content = (out / table).read_bytes()
    (out / table).write_bytes(content.replace(b"dfew/", b"dfev/"))
    assert pd.read_parquet(out / table).clip_id[0].startswith("dfev/")
    read = FeatureStore if table == INDEX else without_rejects
    arguments = ([out],) if table == INDEX else ([], [out])
    with pytest.raises(ValueError, match=rf"{table}: is damaged: .*{SUMS} .*doctor --cache"):
        read(*arguments)
    (out / table).unlink()
    with pytest.raises(ValueError, match=rf"{table}: (cannot be read|no such index)"):
        read(*arguments)


def test_a_damaged_kept_shard_is_made_again_to_the_same_bytes(
    raw, checkpoint, computed, tmp_path, monkeypatch, caplog
):
    """The kept shard, the stage's output and DVC's cache are one inode."""
    root, clips = raw
    shutil.copytree(computed / ".state", tmp_path / ".state")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "SHARD_CLIPS", 4)
    write_manifest(clips, tmp_path / "m.parquet")
    (old,) = (tmp_path / ".state/features/dfew").glob("*.safetensors")
    _flip_a_byte(old)
    arguments = (tmp_path / "m.parquet", root, checkpoint, tmp_path / "out/dfew")
    run_features(*arguments, **FEATURES, limits=LIMITS)
    assert f"{old.name}: is damaged" in caplog.text
    whole = _files(tmp_path / "out/dfew")
    first, *_ = sorted((tmp_path / "out/dfew").glob("*.safetensors"))
    inode = first.stat().st_ino
    _flip_a_byte(first)
    run_features(*arguments, **FEATURES, limits=LIMITS)
    assert _files(tmp_path / "out/dfew") == whole
    assert first.stat().st_ino != inode
    (tmp_path / f".state/features/dfew/{first.stem}.sha256").unlink()
    run_features(*arguments, **FEATURES, limits=LIMITS)
    assert _files(tmp_path / "out/dfew") == whole


def test_a_full_disk_is_told_before_the_start(raw, checkpoint, clip_bytes, tmp_path, monkeypatch):
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    write_manifest(clips, tmp_path / "m.parquet")
    with pytest.raises(
        ValueError, match=r"out: needs 0\.00 GB, 0\.00 GB are free and machine\.min"
    ):
        run_features(
            tmp_path / "m.parquet", root, checkpoint, tmp_path / "out", **FEATURES,
            limits=LIMITS, free_bytes=lambda folder: 10 * clip_bytes - 1,
        )  # fmt: skip
    assert not list((tmp_path / ".state").rglob("*.safetensors"))
    reserve = FEATURES | {"min_free_gb": 1e-9}
    with pytest.raises(ValueError, match=r"min_free_gb keeps"):  # one byte of it
        run_features(
            tmp_path / "m.parquet", root, checkpoint, tmp_path / "out", **reserve,
            limits=LIMITS, free_bytes=lambda folder: 10 * clip_bytes,
        )  # fmt: skip


def test_a_disk_that_fills_up_stops_the_run_and_what_is_finished_is_kept(
    raw, checkpoint, clip_bytes, tmp_path, monkeypatch
):
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "SHARD_CLIPS", 4)
    write_manifest(clips, tmp_path / "m.parquet")
    state = tmp_path / ".state/features/out"

    def quota(folder: Path) -> int:  # room for ten clips at first, for three after a shard
        return 10 * clip_bytes if not list(state.glob("*.safetensors")) else 3 * clip_bytes

    with pytest.raises(ValueError, match=r"out: stopped with 0\.00 GB free.*is kept in \.state"):
        run_features(
            tmp_path / "m.parquet", root, checkpoint, tmp_path / "out", **FEATURES,
            limits=LIMITS, free_bytes=quota,
        )  # fmt: skip
    assert len(list(state.glob("*.safetensors"))) == 1 and not (tmp_path / "out").exists()
    run_features(
        tmp_path / "m.parquet", root, checkpoint, tmp_path / "out", **FEATURES, limits=LIMITS
    )
    assert len(FeatureStore([tmp_path / "out"])) == N_CLIPS


def test_two_processes_make_the_same_bytes_as_one(raw, checkpoint, tmp_path, monkeypatch):
    """The second rank alone makes its share; the first makes the rest and hands all out."""
    root, clips = raw
    monkeypatch.setattr(features, "SHARD_CLIPS", 3)
    write_manifest(clips, tmp_path / "m.parquet")
    for name, ranks in {"one": ("0",), "two": ("1", "0")}.items():
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("WORLD_SIZE", str(len(ranks)))
        for rank in ranks:
            monkeypatch.setenv("RANK", rank)
            run_features(
                tmp_path / "m.parquet",
                root,
                checkpoint,
                Path("out"),
                **FEATURES,
                limits=LIMITS,
            )
            if rank == "1":
                assert len(list(Path(".state/features/out").glob("*.safetensors"))) == 2
                assert not Path("out").exists()
    assert _files(tmp_path / "one/out") == _files(tmp_path / "two/out")


def test_a_device_that_is_not_there_and_a_clip_outside_the_root_are_refused(
    raw, checkpoint, tmp_path, monkeypatch
):
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    write_manifest([replace(clips[0], path="../secret.mp4")], tmp_path / "m.parquet")
    arguments = (tmp_path / "m.parquet", root, checkpoint, tmp_path / "out")
    with pytest.raises(ValueError, match=r"m\.parquet: clip 'dfew/0': .*\.\./secret\.mp4"):
        run_features(*arguments, **FEATURES, limits=LIMITS, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"machine\.device is cuda"):
            run_features(*arguments, **FEATURES, limits=LIMITS, device="cuda")


SCRIPT = """
import sys
from pathlib import Path

if __name__ == "__main__":  # the decoding processes import this file too: nothing heavy above
    from r1omni.limits import Limits
    from r1omni.model import features

    features.SHARD_CLIPS = 4
    manifest, root, checkpoint = map(Path, sys.argv[1:])
    features.run_features(manifest, root, checkpoint, Path("out/dfew"),
                          batch_size=3, workers=2, min_free_gb=0.0,
                          limits=Limits(60.0, 2**24, 768))
"""


def test_a_killed_run_goes_on_to_the_same_bytes(checkpoint, tmp_path, monkeypatch):
    root = tmp_path / "raw"
    root.mkdir()
    first = write_clip(root / "0.mp4").read_bytes()
    clips = []
    for i in range(80):  # one clip; a free box at the end makes its content another
        box = (8 + 4).to_bytes(4, "big") + b"free" + i.to_bytes(4, "big")
        (root / f"{i}.mp4").write_bytes(first + box)
        clips.append(_clip(root / f"{i}.mp4", root))
    manifest, killed = tmp_path / "m.parquet", tmp_path / "killed"
    write_manifest(clips, manifest)
    (tmp_path / "script.py").write_text(SCRIPT)
    killed.mkdir()

    state = killed / ".state/features/dfew"
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", manifest, root, checkpoint],
        cwd=killed,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list(state.glob("*.safetensors")):
        time.sleep(0.002)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path.name: path.stat().st_ino for path in state.glob("*.safetensors")}
    assert 1 <= len(finished) < 20
    assert not (killed / "out/dfew").exists()
    assert len(children) >= 2
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive  # the decoding processes end with their parent

    monkeypatch.setattr(features, "SHARD_CLIPS", 4)
    for name in ("killed", "undisturbed"):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        run_features(
            manifest, root, checkpoint, Path("out/dfew"), **BATCHES_OF_THREE, limits=LIMITS
        )
    assert _files(killed / "out/dfew") == _files(tmp_path / "undisturbed/out/dfew")
    kept = {name: (state / name).stat().st_ino for name in finished}
    assert kept == finished  # what was finished was not computed again


def test_rank_0_does_not_wait_for_ever_for_ranks_that_have_ended(
    checkpoint, raw, tmp_path, monkeypatch
):
    root, clips = raw
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(features, "SHARD_CLIPS", 4)
    monkeypatch.setenv("WORLD_SIZE", "2")
    write_manifest(clips, tmp_path / "m.parquet")
    arguments = (tmp_path / "m.parquet", root, checkpoint, tmp_path / "out/dfew")
    with pytest.raises(TimeoutError, match=r"1 of 3 shards are missing.*rank_patience_seconds"):
        run_features(*arguments, **FEATURES, limits=LIMITS, patience=0.5)
    assert not (tmp_path / "out/dfew").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")  # with fewer ranks: the two shards are kept
    run_features(*arguments, **FEATURES, limits=LIMITS, patience=0.5)
    assert len(list((tmp_path / "out/dfew").glob("*.safetensors"))) == 3
