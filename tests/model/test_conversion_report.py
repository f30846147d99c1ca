"""Stage `base` on an original checkpoint: its account of the tensors, parity, what is refused."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.original_layout import write_original
from r1omni.base_model.stage import run_base
from r1omni.machine.state_folders import TrainingPaths
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.humanomni.conversion import read_checkpoint

NORM = "model.norm.weight"


@pytest.fixture
def original(tiny: Any, tmp_path: Path) -> Path:
    """The default's random model in the original layout, its towers in their own folders."""
    write_original(tiny.model, tiny.processor, tmp_path / "original", towers_inside=False)
    return tmp_path / "original"


def convert(source: Path, folder: Path, params: Any, **changes: Any) -> Path:
    """Stage `base` into `folder`; the checkpoint that it wrote."""
    paths = TrainingPaths(folder / "base", folder / "training", folder / ".state")
    run_base(
        source,
        [],
        paths,
        base=params.base.model_copy(update=changes),
        model=params.model,
        media=params.media,
        engine=params.engine,
        machine=params.machine,
        limits=params.limits,
        log=lambda _step, _metrics: None,
    )
    return paths.checkpoint


def test_the_base_stage_says_what_became_of_every_tensor(
    original: Path, tiny: Any, params: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whisper = original / "whisper/model.safetensors"
    decoder = {"model.decoder.embed_tokens.weight": torch.zeros(2, 2)}
    save_file(load_file(whisper) | decoder, whisper)
    checkpoint = convert(original, tmp_path, params)
    printed = capfd.readouterr().err.replace("\n", " ")
    n = len(tiny.model.state_dict()) - 1  # the tied head
    assert f"{n} tensors used, 1 unused, 0 missing, 0 unexpected, 0 reshaped" in printed
    assert "model.bert_gate from model.safetensors" in printed
    assert f"vision tower: from {original}/siglip" in re.sub(r"\s+", " ", printed)
    assert "unused: 1 x whisper: model.decoder (no part of the tower)" in printed
    account = json.loads((tmp_path / "training/conversion.json").read_text())
    assert len(account["used"]) == n
    assert account["missing"] == account["unexpected"] == account["reshaped"] == []
    ours = HumanOmniForConditionalGeneration.from_pretrained(checkpoint).state_dict()
    for name, tensor in tiny.model.state_dict().items():
        assert torch.equal(ours[name], tensor), name
    assert HumanOmniProcessor.from_pretrained(checkpoint).media == tiny.processor.media


def test_a_surplus_tensor_is_refused_until_it_is_allowed_by_name(
    original: Path, params: Any, tmp_path: Path
) -> None:
    weights = original / "model.safetensors"
    surplus = {"model.vision_resampler.weight": torch.zeros(3)}
    save_file(load_file(weights) | surplus, weights)
    message = "unexpected tensor: model.vision_resampler.weight in model.safetensors"
    with pytest.raises(ValueError, match=re.escape(message)):
        convert(original, tmp_path, params)
    with pytest.raises(ValueError, match=re.escape(message)):
        convert(original, tmp_path, params, allow=("model.vision_resampler",))
    convert(original, tmp_path, params, allow=tuple(surplus))
    account = json.loads((tmp_path / "training/conversion.json").read_text())
    assert account["unused"] == {"model.vision_resampler.weight": "allowed by name"}


def test_allowing_a_tensor_that_the_model_needs_does_not_make_it_optional(
    original: Path, params: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"missing tensor: {NORM}"):
        convert(original, tmp_path, params, allow=(NORM,))


@pytest.mark.parametrize(
    ("tower", "name"),
    [("siglip", "vision_model.post_layernorm.weight"), ("bert", "bert.pooler.dense.bias")],
)
def test_a_tensor_missing_from_a_towers_own_folder_is_named(
    original: Path, tower: str, name: str
) -> None:
    weights = original / tower / "model.safetensors"
    tensors = load_file(weights)
    del tensors[name]
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=rf"missing tensor: \S*{name.split('.', 1)[1]}"):
        HumanOmniForConditionalGeneration.from_pretrained(original)


class Bomb:
    """What a hostile .bin file may hold: unpickling it calls os.mkdir."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_a_pickle_bomb_is_refused_and_does_not_go_off(original: Path, tmp_path: Path) -> None:
    tensors = load_file(original / "model.safetensors")
    (original / "model.safetensors").unlink()
    target = tmp_path / "exploded"
    torch.save(tensors | {"payload": Bomb(target)}, original / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: truncated, or not a plain file"):
        read_checkpoint(original)
    assert not target.exists()
    torch.load(original / "pytorch_model.bin", weights_only=False)
    assert target.exists()  # it was live


def test_a_truncated_bin_file_is_refused_by_name(original: Path) -> None:
    tensors = load_file(original / "model.safetensors")
    (original / "model.safetensors").unlink()
    file = original / "pytorch_model.bin"
    torch.save(tensors, file)
    content = file.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"pytorch_model\.bin: truncated"):
            read_checkpoint(original)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_golden_logits_survive_convert_save_load_in_both_dtypes(
    golden: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    copy = tmp_path / "original"
    ignore = shutil.ignore_patterns("inputs.safetensors", "outputs.safetensors")
    shutil.copytree(golden.directory, copy, ignore=ignore, copy_function=shutil.copyfile)
    copy.chmod(0o755)
    settings = json.loads((copy / "config.json").read_text())
    settings["torch_dtype"] = str(dtype).removeprefix("torch.")
    (copy / "config.json").write_text(json.dumps(settings))
    tensors = load_file(golden.directory / "model.safetensors")
    save_file({n: t.to(dtype) for n, t in tensors.items()}, copy / "model.safetensors")

    converted = HumanOmniForConditionalGeneration.from_pretrained(copy)
    converted.save_pretrained(tmp_path / "ours")
    again = HumanOmniForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert again.dtype == converted.dtype == dtype
    with torch.no_grad():
        logits = again(**golden.prompt()).logits
        assert torch.equal(logits, converted(**golden.prompt()).logits)
    expected = golden.outputs["logits"]
    if dtype == torch.float32:
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0.0)
    else:  # eight bits of mantissa: rounding the weights alone moves them by 1.7 % of their spread
        error = (logits.float() - expected).abs()
        assert float(error.mean()) < 0.04 * float(expected.std())
        both = torch.stack([logits.float().flatten(), expected.flatten()])
        assert float(torch.corrcoef(both)[0, 1]) > 0.998
