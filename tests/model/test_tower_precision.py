"""Towers keep the precision that they were published in, whatever the rest of the model is in."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.original_layout import write_original
from r1omni.base_model.stage import run_base
from r1omni.corpora.clip import Clip
from r1omni.inference.loading import load_checkpoint
from r1omni.machine.state_folders import TrainingPaths
from r1omni.model import HumanOmniForConditionalGeneration
from r1omni.training.checkpoints import load_parent, save_checkpoint

LIKE_PUBLISHED = {"vision_tower": torch.float32, "audio_tower": torch.float16}
ALL_BFLOAT16 = dict.fromkeys(LIKE_PUBLISHED, torch.bfloat16)


def original(tiny: Any, folder: Path, kinds: dict[str, torch.dtype], *, inside: bool) -> Any:
    """An original checkpoint in bfloat16 whose towers are in `kinds`; and the model as written."""
    model = deepcopy(tiny.model).bfloat16()
    for name, kind in kinds.items():
        getattr(model.model, name).load_state_dict(
            deepcopy(getattr(tiny.model.model, name)).to(kind).state_dict(), assign=True
        )
    model.model.bert_model.float()
    write_original(model, tiny.processor, folder, towers_inside=inside)
    return model


def precisions(model: Any) -> dict[str, set[torch.dtype]]:
    found: dict[str, set[torch.dtype]] = {}
    for name, tensor in model.state_dict().items():
        part = name.split(".")[1]
        found.setdefault(part if part in LIKE_PUBLISHED else "rest", set()).add(tensor.dtype)
    return found


def media(model: Any) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    vision, audio = model.config.vision_config, model.config.audio_config
    size = (2, model.config.num_frames, 3, vision.image_size, vision.image_size)
    mel = (2, audio.num_mel_bins, 2 * audio.max_source_positions)
    return torch.randn(size, generator=generator), torch.randn(mel, generator=generator)


@torch.no_grad()
def features(model: Any, kind: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    pixels, mel = (x if kind is None else x.to(kind) for x in media(model))
    return model.encode_vision(pixels), model.encode_audio(mel)


def error(found: Tensor, true: Tensor) -> float:
    return float((found.double() - true).norm() / true.norm())


def test_towers_of_a_bfloat16_checkpoint_stay_as_published(tiny: Any, tmp_path: Path) -> None:
    """Features within 0.1 % of float64's; in bfloat16 they would be 0.8 % off."""
    original(tiny, tmp_path, LIKE_PUBLISHED, inside=False)
    model = HumanOmniForConditionalGeneration.from_pretrained(tmp_path)
    assert precisions(model) == {
        "vision_tower": {torch.float32},
        "audio_tower": {torch.float16},
        "rest": {torch.bfloat16},
    }
    assert model.dtype == torch.bfloat16
    truth = features(deepcopy(tiny.model).double(), torch.float64)
    for found, true in zip(features(model), truth, strict=True):
        assert error(found, true) < 1e-3
    rounded = deepcopy(tiny.model).bfloat16()
    for found, true in zip(features(rounded, torch.bfloat16), truth, strict=True):
        assert error(found, true) > 2e-3  # what the test is about


@pytest.mark.parametrize("kinds", [LIKE_PUBLISHED, ALL_BFLOAT16])
def test_saved_and_loaded_they_have_the_same_precision_and_features(
    tiny: Any, tmp_path: Path, kinds: dict[str, torch.dtype]
) -> None:
    original(tiny, tmp_path / "original", kinds, inside=True)
    model = HumanOmniForConditionalGeneration.from_pretrained(tmp_path / "original")
    model.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto")
    assert precisions(again) == precisions(model)
    assert (
        torch.bfloat16 not in precisions(again)["vision_tower"] | precisions(again)["audio_tower"]
    )
    for found, expected in zip(features(again), features(model), strict=True):
        assert torch.equal(found, expected)
    # asked for by name, the rest is what was asked for; towers are never less than float32 then
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.bfloat16)
    assert precisions(half)["rest"] == {torch.bfloat16}
    assert precisions(half)["vision_tower"] == precisions(half)["audio_tower"] == {torch.float32}
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    assert set().union(*precisions(whole).values()) == {torch.float32}


def test_the_account_names_every_cast(
    tiny: Any, tmp_path: Path, params: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    written = original(tiny, tmp_path / "original", ALL_BFLOAT16, inside=True)
    load_checkpoint(tmp_path / "original", mode="reasoned")
    printed = capfd.readouterr().err
    paths = TrainingPaths(tmp_path / "base", tmp_path / "training", tmp_path / ".state")
    run_base(
        tmp_path / "original", [], paths, base=params.base,
        model=params.model, media=params.media, engine=params.engine, machine=params.machine,
        limits=params.limits, log=lambda _s, _m: None,
    )  # fmt: skip
    also = capfd.readouterr().err
    cast = json.loads((tmp_path / "training/conversion.json").read_text())["cast"]
    loaded = HumanOmniForConditionalGeneration.from_pretrained(tmp_path / "base").state_dict()
    for part, kinds in {
        "vision_tower": "bfloat16 to float32",
        "audio_tower": "bfloat16 to float32",
        "bert_model": "float32 to bfloat16",
    }.items():
        names = [name for name in written.state_dict() if name.startswith(f"model.{part}.")]
        line = f"cast: {len(names)} x model.{part} from {kinds}"
        assert line in printed
        assert line in also
        assert {cast.pop(name) for name in names} == {kinds}
        assert {str(loaded[name].dtype) for name in names} == {f"torch.{kinds.split()[-1]}"}
    assert not cast


def test_a_training_in_bfloat16_leaves_the_parents_towers(
    tiny: Any, params: Any, tmp_path: Path
) -> None:
    """DeepSpeed casts every parameter; what is written has the parent's towers, bit for bit."""
    parent = tmp_path / "parent"
    original(tiny, tmp_path / "original", LIKE_PUBLISHED, inside=False)
    HumanOmniForConditionalGeneration.from_pretrained(tmp_path / "original").save_pretrained(parent)
    tiny.processor.save_pretrained(parent)
    backbone = load_parent(parent)
    model = backbone.module
    with torch.no_grad():
        for parameter in model.parameters():  # as DeepSpeed does
            parameter.data = parameter.data.to(torch.bfloat16)
        model.model.norm.weight += 1.0
    paths = TrainingPaths(tmp_path / "child", tmp_path / "training", tmp_path / ".state")
    clip = Clip("c", "dfew", "c.mp4", "sad", "train", 1, None, None, 1.0, 8.0, 8, True, "0")
    save_checkpoint(
        backbone, paths, stage_params=params.base, mode="reasoned", parent=parent,
        clips=[clip], data={},
    )  # fmt: skip
    before, after = (load_file(x / "model.safetensors") for x in (parent, paths.checkpoint))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if name.split(".")[1] in LIKE_PUBLISHED:
            assert after[name].dtype == tensor.dtype
            assert torch.equal(after[name], tensor), name
    assert not torch.equal(after["model.norm.weight"], before["model.norm.weight"])
    child = HumanOmniForConditionalGeneration.from_pretrained(paths.checkpoint)
    assert precisions(child)["rest"] == {torch.bfloat16}
    assert child.lm_head.weight is child.model.embed_tokens.weight
