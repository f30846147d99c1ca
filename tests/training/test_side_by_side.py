"""What ranks divide among them outside of gradients: towers, connector, held-out clips."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from forked import Ranks
from safetensors.torch import load_file, save_file
from toy import CLIPS, clip_at

from r1omni.corpora.synthetic.attributes import ATTRIBUTES
from r1omni.machine.ranks import assigned_names


def warm_up(world: Path, folder: Path) -> None:
    """Towers, then connector, on noise that has labels; the first rank keeps weights and curves."""
    import numpy as np
    import toy

    from r1omni.base_model.connector import train_connector
    from r1omni.base_model.humanomni import humanomni_connectors, humanomni_towers
    from r1omni.base_model.stage import _tower_outputs
    from r1omni.base_model.towers import GenericClip, train_towers
    from r1omni.corpora.synthetic.attributes import ATTRIBUTES
    from r1omni.machine.environment import is_first
    from r1omni.machine.ranks import join_ranks
    from r1omni.media import TowerInputs
    from r1omni.training.checkpoints import load_parent

    join_ranks(toy.machine_params())
    backbone = load_parent(world / "parent")
    model, media = backbone.model, backbone.preparation
    rng = np.random.default_rng(0)
    clips = [
        GenericClip(
            f"generic/{i}", f"{i}.mp4", "A face.", "sad",
            dict.fromkeys(ATTRIBUTES, i % 3) | {"scene": i % 4, "speaker": i % 5},
        )
        for i in range(6)
    ]  # fmt: skip
    mel_frames = media.n_samples // media.hop_length
    decoded = {
        clip.clip_id: TowerInputs(
            pixels=rng.standard_normal(
                (media.num_frames, 3, media.image_size, media.image_size), np.float32
            ),
            mel=rng.standard_normal((media.num_mel_bins, mel_frames), np.float32),
            has_audio=True,
        )
        for clip in clips
    }
    base = toy.toy_params().base.model_copy(
        update={"tower_steps": 5, "tower_batch_size": 4, "connector_steps": 12}
    )
    curves = []

    def log(step, metrics):
        curves.append({"step": step, **metrics})

    model.requires_grad_(True)
    torch.manual_seed(3)
    pairs = [(decoded[c.clip_id], c.targets) for c in clips]
    train_towers(humanomni_towers(backbone), pairs, base=base, log=log)
    backbone.freeze()
    load = _tower_outputs(backbone, decoded)
    train_connector(humanomni_connectors(backbone), clips, load, base=base, log=log)
    if is_first():
        save_file(
            {k: v.clone() for k, v in model.state_dict().items()}, folder / "weights.safetensors"
        )
        (folder / "curves.json").write_text(json.dumps(curves))


def whole_base(world: Path, folder: Path) -> None:
    """The base stage on six clips whose decoding is noise by their number, not by their order."""
    import numpy as np
    import toy

    from r1omni.base_model import stage as base
    from r1omni.machine.environment import rank
    from r1omni.media import TowerInputs

    def decode(files, media, workers, limits):
        decoded.extend(file.stem for file in files)
        for file in files:
            rng = np.random.default_rng(int(file.stem))
            yield TowerInputs(
                pixels=rng.standard_normal((media.num_frames, 3, 24, 24), np.float32),
                mel=rng.standard_normal(
                    (media.num_mel_bins, media.n_samples // media.hop_length), np.float32
                ),
                has_audio=True,
            )

    decoded = []
    base.decode_clips = decode
    params = toy.toy_params()
    base.run_base(
        world / "generic",
        [world / "manifest.parquet"],
        toy.paths_in(folder),
        base=params.base.model_copy(update={"tower_steps": 4, "connector_steps": 4}),
        model=params.model,
        media=params.media,
        engine=params.engine,
        machine=toy.machine_params(save_every=100),
        limits=params.limits,
        log=lambda _step, _metrics: None,
    )
    (folder / f"decoded-{rank()}.json").write_text(json.dumps(decoded))


def evaluate(world: Path, folder: Path) -> None:
    """What every rank is told of the held-out clips, and the answers that were judged."""
    import toy

    from r1omni.machine.environment import rank
    from r1omni.machine.ranks import join_ranks
    from r1omni.model.feature_store import FeatureStore
    from r1omni.training import held_out
    from r1omni.training.checkpoints import load_parent

    join_ranks(toy.machine_params())
    clips = [toy.clip_at(i) for i in range(toy.CLIPS)]
    watch = held_out.HeldOutSet(clips, FeatureStore([world / "features"]), "reasoned", 24, 1)
    judged = []
    real_watched, real_answers = held_out.held_out_metrics, held_out.HeldOutSet._answers

    def watched(labels, completions, mode):
        judged.extend(zip(labels, completions, strict=True))
        return real_watched(labels, completions, mode)

    def named_answers(self, backbone, clips):  # the toy says the same of every clip
        answers = real_answers(self, backbone, clips)
        return [f"{clip.clip_id} {text}" for clip, text in zip(clips, answers, strict=True)]

    held_out.held_out_metrics, held_out.HeldOutSet._answers = watched, named_answers
    seen = watch.evaluate(load_parent(world / "parent"))
    (folder / f"seen-{rank()}.json").write_text(json.dumps([seen, judged]))


def run(target, size: int, world: Path, folder: Path) -> Path:
    codes = Ranks(folder, size, target, world, folder).wait()
    assert codes == [0] * size, (folder / f"said-{size - 1}").read_text()[-3000:]
    return folder


def test_two_ranks_train_towers_and_connector_as_one_does(world, tmp_path):
    one, two = (run(warm_up, size, world, tmp_path / str(size)) for size in (1, 2))
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (two, one))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=name)
    parent = load_file(world / "parent" / "model.safetensors")
    for part in ("vision_tower", "audio_tower", "mm_projector", "audio_projector"):
        assert any(part in k and not torch.equal(theirs[k], parent[k]) for k in parent), part
    curves = [json.loads((folder / "curves.json").read_text()) for folder in (two, one)]
    assert [row.keys() for row in curves[0]] == [row.keys() for row in curves[1]]
    for a, b in zip(*curves, strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert {"towers/vision_loss", "towers/audio_accuracy"} <= curves[0][0].keys()


@pytest.fixture(scope="module")
def generic_world(world, tmp_path_factory):
    """The toy world with a generic corpus of six clips."""
    entries = [
        {
            "video": f"{i}.mp4",
            "conversations": [{"value": "Describe."}, {"value": f"The face {i}."}],
            "attributes": dict.fromkeys(ATTRIBUTES, i % 3 - 1) | {"scene": i, "speaker": i},
            "style": "wild",
            "emotion": "sad",
        }
        for i in range(6)
    ]
    copy = shutil.copytree(world, tmp_path_factory.mktemp("generic") / "world")
    (copy / "generic").mkdir()
    (copy / "generic" / "annotations.json").write_text(json.dumps(entries))
    return copy


@pytest.fixture(scope="module")
def undisturbed_base(generic_world, tmp_path_factory):
    """The base stage's folder of one process that nothing disturbed."""
    return run(whole_base, 1, generic_world, tmp_path_factory.mktemp("base"))


def test_two_ranks_make_the_base_that_one_makes(generic_world, undisturbed_base, tmp_path):
    two = run(whole_base, 2, generic_world, tmp_path)
    shares = [json.loads((two / f"decoded-{rank}.json").read_text()) for rank in range(2)]
    assert shares == [["0", "1", "2"], ["3", "4", "5"]]
    ours, theirs = (
        load_file(f / "checkpoint" / "model.safetensors") for f in (two, undisturbed_base)
    )
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_killed_base_is_what_an_undisturbed_one_is(generic_world, undisturbed_base, tmp_path):
    """Killed once its towers are kept; the next run trains the rest, and the same files come out.

    Label SFT's and GRPO's kills: test_survival.py.
    """
    ranks = Ranks(tmp_path, 1, whole_base, generic_world, tmp_path)
    while ranks.alive and not list(tmp_path.glob(".state/toy/*/towers.safetensors")):
        time.sleep(0.001)
    ranks.kill()
    (towers,) = tmp_path.glob(".state/toy/*/towers.safetensors")
    made = towers.stat().st_mtime_ns
    assert not (tmp_path / "checkpoint").exists()
    run(whole_base, 1, generic_world, tmp_path)
    assert towers.stat().st_mtime_ns == made
    files = sorted(p for p in (undisturbed_base / "checkpoint").rglob("*") if p.is_file())
    assert len(files) > 3
    for file in files:
        assert (tmp_path / file.relative_to(undisturbed_base)).read_bytes() == file.read_bytes()


def test_ranks_share_the_held_out_clips_and_are_told_the_same(world, tmp_path):
    one, three = (run(evaluate, size, world, tmp_path / str(size)) for size in (1, 3))
    metrics, judged = json.loads((one / "seen-0.json").read_text())
    assert [label for label, _ in judged] == [clip_at(i).label for i in range(CLIPS)]
    assert [text.split()[0] for _, text in judged] == [f"clip-{i}" for i in range(CLIPS)]
    for rank in range(3):
        told = json.loads((three / f"seen-{rank}.json").read_text())
        assert told == [pytest.approx(metrics), judged]


@pytest.mark.parametrize(
    ("size", "owned"),
    [(1, [["v", "a"]]), (2, [["v"], ["a"]]), (3, [["v"], ["a"], ["v"]])],
)
def test_every_training_is_some_ranks(monkeypatch, size, owned):
    monkeypatch.setenv("WORLD_SIZE", str(size))
    for rank, names in enumerate(owned):
        monkeypatch.setenv("RANK", str(rank))
        assert assigned_names(["v", "a"]) == names
