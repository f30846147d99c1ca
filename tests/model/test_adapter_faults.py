"""Adapters' checkpoints that are damaged, foreign or half written: one error, and nothing left."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tiny_thinker import tiny_thinker

from r1omni.lineage import write_provenance
from r1omni.model.adapters import (
    ADAPTER,
    ADAPTER_CONFIG,
    adapter_parameters,
    find_base,
    save_adapter,
)
from r1omni.model.loading import load_backbone, merge_checkpoint
from r1omni.model.qwen_omni.backbone import QwenOmniBackbone
from r1omni.model.weights import read_tensor_file
from r1omni.training.checkpoints import load_parent
from r1omni.training_config import AdapterParams

LORA = AdapterParams(rank=2, alpha=4.0, targets=("attention",))


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """An adapter's checkpoint with its base beside it."""
    base, folder = tmp_path / "base", tmp_path / "made"
    tiny_thinker().save(base, None)
    policy = load_parent(base, LORA, seed=3)
    for parameter in adapter_parameters(policy).values():
        parameter.data = torch.full_like(parameter, 0.05)
    folder.mkdir()
    write_provenance(folder, save_adapter(policy, folder, base, folder))
    return folder


@pytest.mark.parametrize(
    "base",
    [None, {"places": ["a"]}, *({"content_hash": "x", "places": p} for p in (None, [], "../a"))],
)
def test_an_adapter_that_names_no_base_is_refused(tmp_path: Path, base: object) -> None:
    (tmp_path / ADAPTER_CONFIG).write_text("{}")
    write_provenance(tmp_path, {"base": base})
    with pytest.raises(ValueError, match=r"provenance\.json: expected `base` of an adapter, as a"):
        find_base(tmp_path)


@pytest.mark.parametrize("error", [SafetensorError("no space left"), OSError("no space left")])
def test_a_merge_that_fails_leaves_nothing(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def half(backbone: QwenOmniBackbone, folder: Path, parent: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise error

    monkeypatch.setattr(QwenOmniBackbone, "save", half)
    with pytest.raises(OSError, match="no space left"):
        merge_checkpoint(made, tmp_path / "new" / "merged")
    assert list((tmp_path / "new").iterdir()) == []


def test_an_unknown_answer_mode_is_refused(made: Path) -> None:
    """The base's took its place, without a word."""
    config = json.loads((made / "config.json").read_text())
    (made / "config.json").write_text(json.dumps(config | {"answer_mode": "Reasoned"}))
    with pytest.raises(ValueError, match=r"made/config\.json: answer_mode is 'Reasoned'; expected"):
        load_backbone(made)


def test_what_peft_would_scale_otherwise_is_refused(made: Path) -> None:
    """Left unread, the adapter would be added with another factor than trained."""
    config = json.loads((made / ADAPTER_CONFIG).read_text())
    (made / ADAPTER_CONFIG).write_text(json.dumps(config | {"use_rslora": True}))
    with pytest.raises(ValueError, match=rf"{ADAPTER_CONFIG}: use_rslora is True, but by provena"):
        load_backbone(made)


def test_whole_numbers_are_refused_by_name(made: Path) -> None:
    tensors = {name: tensor.int() for name, tensor in read_tensor_file(made / ADAPTER).items()}
    save_file(tensors, made / ADAPTER)
    with pytest.raises(ValueError, match=rf"{ADAPTER}: .*lora_A.*: has whole numbers"):
        load_backbone(made)
