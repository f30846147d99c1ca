"""The base stage with Qwen2.5-Omni: a tiny thinker that is trained, a checkpoint that is taken."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from r1omni.base_model import stage
from r1omni.base_model.qwen_omni import build_untrained, equally_many, thinker_towers
from r1omni.corpora.synthetic.attributes import ATTRIBUTES
from r1omni.machine.state_folders import TrainingPaths
from r1omni.media import TowerInputs
from r1omni.model.loading import load_backbone
from r1omni.params_file import read_params

TEXTS = ["The brows are raised, the mouth smiling; the voice is loud."]
TOWERS = ("model.visual.", "model.audio_tower.")


@pytest.fixture(scope="module")
def thinker(repo) -> Any:
    """The params of params/tiny_qwen.yaml with few steps."""
    read = read_params(repo / "params/tiny_qwen.yaml")
    align = read.base.align.model_copy(update={"epochs": 1, "batch_size": 3})
    few = {"tower_steps": 4, "tower_batch_size": 4, "emotion_share": 0.0, "align": align}
    return read.model_copy(update={"base": read.base.model_copy(update=few)})


def noise(number: int, media: Any) -> TowerInputs:
    """A clip whose size and length follow from its number."""
    rng = np.random.default_rng(number)
    side = 56 if number % 2 else 28
    return TowerInputs(
        pixels=rng.standard_normal((media.num_frames, 3, 56, side), np.float32),
        mel=rng.standard_normal((media.num_mel_bins, 80 + 30 * number), np.float32),
        has_audio=True,
        frame_seconds=0.4,
    )


def built(thinker: Any) -> Any:
    torch.manual_seed(0)
    return build_untrained(TEXTS, TEXTS, model=thinker.model, media=thinker.media)


def test_clips_of_any_length_give_equally_many_means():
    tokens = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    found = equally_many(2, tokens, [3, 1])
    assert found.tolist() == [[[1.5], [2.5]], [[5.0], [5.0]]]


@torch.no_grad()
def test_heads_read_the_tokens_that_the_language_model_reads(thinker):
    backbone = built(thinker)
    clips = [noise(number, backbone.preparation) for number in (1, 2, 5)]
    towers, features = thinker_towers(backbone), backbone.encode(clips)
    assert [len(clip["video"]) for clip in features] == [8, 4, 8]
    assert [len(clip["audio"]) for clip in features] == [27, 35, 57]
    for tower, name in (("vision", "video"), ("audio", "audio")):
        read = towers[tower].tokens(clips)
        own = [clip[name].float() for clip in features]
        means = equally_many(towers[tower].n_tokens, torch.cat(own), [len(x) for x in own])
        torch.testing.assert_close(read, means, atol=2e-3, rtol=1e-3)  # features are in half


def run_base(source: Path, folder: Path, read: Any, monkeypatch: Any, **engine: str) -> Path:
    """The base stage with noise in place of clips; its checkpoint."""

    def decode(files: list[Path], media: Any, workers: int, limits: Any) -> Any:
        return (noise(int(file.stem), media) for file in files)

    monkeypatch.setattr(stage, "decode_clips", decode)
    paths = TrainingPaths(folder / "base", folder / "training", folder / ".state")
    machine = read.machine.model_copy(update={"processes": 1})
    stage.run_base(
        source, [], paths, base=read.base, model=read.model, media=read.media, machine=machine,
        engine=read.engine.model_copy(update=engine), limits=read.limits, log=lambda _s, _m: None,
    )  # fmt: skip
    return paths.checkpoint


@pytest.fixture
def generic(tmp_path: Path) -> Path:
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
    folder = tmp_path / "generic"
    folder.mkdir()
    (folder / "annotations.json").write_text(json.dumps(entries))
    return folder


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_towers_are_trained_first_and_alone_then_the_language_model(
    thinker, generic, tmp_path, monkeypatch, dtype
):
    kept: dict[str, torch.Tensor] = {}
    align = stage.train_supervised

    def watched(backbone: Any, *given: Any, **settings: Any) -> None:
        kept.update(deepcopy(backbone.module.state_dict()))
        align(backbone, *given, **settings)

    monkeypatch.setattr(stage, "train_supervised", watched)
    checkpoint = run_base(generic, tmp_path, thinker, monkeypatch, dtype=dtype)
    texts = [f"The face {i}." for i in range(6)]
    torch.manual_seed(thinker.base.seed)
    start = build_untrained(texts, [], model=thinker.model, media=thinker.media)
    before = start.module.state_dict()
    after = load_file(checkpoint / "model.safetensors")
    trained_first = {n for n in before if not torch.equal(kept[n], before[n])}
    unread = {"model.audio_tower.audio_bos_eos_token.weight"}  # the talker's
    assert trained_first == {name for name in before if name.startswith(TOWERS)} - unread
    for name in before:
        if name.startswith(TOWERS):
            assert torch.equal(after[name], kept[name]), name  # in float32, too
        elif name != "lm_head.weight" and "embed" not in name:
            assert not torch.equal(after[name].float(), kept[name]), name
    assert not list(tmp_path.rglob("connector.*"))
    loaded = load_backbone(checkpoint)
    assert (loaded.answer_mode, loaded.preparation.num_frames) == ("direct", 4)


def test_a_checkpoint_is_taken_with_the_params_frames_and_seconds(thinker, tmp_path, monkeypatch):
    source = tmp_path / "public"
    built(thinker).save(source, None)
    read = thinker.model_copy(
        update={"media": thinker.media.model_copy(update={"num_frames": 6, "max_pixels": 6272})}
    )
    checkpoint = run_base(source, tmp_path, read, monkeypatch)
    ours, theirs = (load_file(f / "model.safetensors") for f in (checkpoint, source))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    media = load_backbone(checkpoint).preparation
    assert (media.num_frames, media.max_pixels, media.num_mel_bins) == (6, 6272, 40)
    account = json.loads((tmp_path / "training" / "conversion.json").read_text())
    assert account["used"].keys() == theirs.keys()


def test_another_backbone_than_the_params_name_is_refused(thinker, params, tmp_path, monkeypatch):
    source = tmp_path / "public"
    built(thinker).save(source, None)
    with pytest.raises(ValueError, match=r"model_type 'qwen2_5_omni.*' is no humanomni"):
        run_base(source, tmp_path, params, monkeypatch)
    (source / "config.json").write_text('{"model_type": "humanomni"}')
    with pytest.raises(ValueError, match=r"'humanomni' is no qwen2_5_omni, which params\.yaml"):
        run_base(source, tmp_path, thinker, monkeypatch)
