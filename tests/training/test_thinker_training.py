"""The recipe's own stages on Qwen2.5-Omni: ragged features, cold start, GRPO, checkpoints."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny_thinker import noise_clips, tiny_thinker
from toy import (
    BY_LENGTH,
    clip_at,
    grpo_params,
    machine_params,
    paths_in,
    sft_params,
    steps_in,
    train_grpo,
    train_sft,
)
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from r1omni.corpora.clip import write_manifest
from r1omni.model.backbone import Backbone, PromptBatch
from r1omni.model.checksums import write_sums
from r1omni.model.feature_store import INDEX, FeatureStore, join_rows, write_shard
from r1omni.model.loading import load_backbone
from r1omni.prompts import instruction
from r1omni.training import grpo as grpo_stage
from r1omni.training import sft as sft_stage

SHAPES = (
    (56, 56, 0.9, 0.5), (60, 90, 0.0, 1.31), (84, 112, 1.3, 0.37), (120, 80, 1.0, 1.2),
    (60, 90, 0.0, 0.2), (84, 84, 1.1, 0.5), (56, 84, 0.7, 0.3),
)  # fmt: skip
TOWERS = ("model.visual.", "model.audio_tower.")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """parent/, manifest.parquet and features/, as training/toy.py makes them for HumanOmni."""
    root = tmp_path_factory.mktemp("world")
    backbone = tiny_thinker()
    clips = [clip_at(i) for i in range(len(SHAPES))]
    names = [clip.clip_id for clip in clips]
    write_manifest(clips, root / "manifest.parquet")
    backbone.answer_mode = "reasoned"
    backbone.save(root / "parent", None)
    (root / "parent" / "provenance.json").write_text(json.dumps({"fold": 1, "mode": "reasoned"}))
    (root / "features").mkdir()
    features = backbone.encode(noise_clips(backbone.preparation, SHAPES))
    checksum = write_shard(join_rows(names, features), root / "features" / "0.safetensors")
    columns = {
        "clip_id": names, "key": names, "shard": "0.safetensors", "row": range(len(names)),
        "has_audio": [bool(seconds) for _, _, seconds, _ in SHAPES], "towers": "toy",
        "sha256": checksum,
    }  # fmt: skip
    pd.DataFrame(columns).to_parquet(root / "features" / INDEX)
    write_sums(root / "features")
    return root


def test_ragged_features_come_back_from_disk_as_they_were(world: Path) -> None:
    backbone = load_backbone(world / "parent")
    expected = backbone.encode(noise_clips(backbone.preparation, SHAPES))
    found = FeatureStore([world / "features"]).load([f"clip-{i}" for i in range(len(SHAPES))])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert "audio" not in found[1]
    sizes = [sum(x.nbytes for x in clip.values()) for clip in found]
    assert max(sizes) <= backbone.clip_bytes() == 2 * (2 * 48 + 100) * 64 + 28
    assert len(set(sizes)) > 2


class Announced(Exception):
    """Ends a training where it would print its memory."""


@pytest.mark.parametrize("stage", ["cold_start", "grpo"])
def test_memory_is_announced_by_the_longest_prompt(
    stage: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(world / "parent")
    store = FeatureStore([world / "features"])

    def prompt_length(clip_id: str) -> int:
        asked = backbone.ask(store.load([clip_id]), [instruction("reasoned")])
        return int(backbone.embed(asked).embeds.shape[1])

    lengths = [prompt_length(f"clip-{i}") for i in range(len(SHAPES))]
    assert lengths[0] < max(lengths)  # or the first clip would do
    announced = []

    def announce(
        _: str, policy: Backbone, *__: object, example: PromptBatch, **___: object
    ) -> None:
        announced.append(policy.embed(example).embeds.shape[1])
        raise Announced

    monkeypatch.setattr(grpo_stage, "load_rewards", lambda *_: BY_LENGTH)
    monkeypatch.setattr(
        sft_stage if stage == "cold_start" else grpo_stage, "announce_memory", announce
    )
    arguments = world, tmp_path / stage, machine_params()
    with pytest.raises(Announced):
        if stage == "cold_start":
            train_sft(*arguments, sft_params(epochs=1), lambda *_: None)
        else:
            train_grpo(*arguments, grpo_params(steps=1, temperature=1.0), lambda *_: None)
    assert announced == [max(lengths)]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_cold_start_and_grpo_train_the_language_model_alone(
    dtype: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sft = sft_params(epochs=1, lr=1e-3)
    train_sft(world, tmp_path / "sft", machine_params(), sft, lambda *_: None, dtype=dtype)
    after = paths_in(tmp_path / "sft").checkpoint
    (tmp_path / "next").mkdir()
    for name in ("manifest.parquet", "features"):
        (tmp_path / "next" / name).symlink_to(world / name)
    (tmp_path / "next" / "parent").symlink_to(after)
    monkeypatch.setattr(grpo_stage, "load_rewards", lambda *_: BY_LENGTH)
    train_grpo(
        tmp_path / "next",
        tmp_path / "grpo",
        machine_params(),
        grpo_params(steps=2, temperature=1.0),
        lambda *_: None,
        dtype=dtype,
    )
    steps = steps_in(tmp_path / "grpo")
    assert len(steps) == 2
    limit = 1e-5 if dtype == "fp32" else 0.1
    assert all(step["rollout/logprob_gap"] < limit for step in steps)
    files = [world / "parent", after, paths_in(tmp_path / "grpo").checkpoint]
    first, second, third = (load_file(folder / "model.safetensors") for folder in files)
    for name, tensor in first.items():
        if name.startswith(TOWERS):
            assert torch.equal(tensor, second[name]), name
            assert torch.equal(tensor, third[name]), name
    moved = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(first[moved].to(second[moved].dtype), second[moved])
    assert not torch.equal(second[moved], third[moved])
    loaded = load_backbone(files[2]).model.state_dict()
    theirs = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(files[2]).state_dict()
    for name, tensor in loaded.items():
        assert torch.equal(theirs[name], tensor.to(theirs[name].dtype)), name
