"""Original directories and our own: what is read, from where, and what is refused by name."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    BertConfig,
    BertModel,
    Qwen2Config,
    SiglipVisionConfig,
    WhisperConfig,
)

from r1omni.model import HumanOmniConfig, HumanOmniForConditionalGeneration, build_config
from r1omni.model.humanomni.conversion import read_checkpoint
from r1omni.params_file import read_params

ROOT = Path(__file__).parents[2]
FACTS = ROOT / "tests" / "golden" / "real_state_dict.txt"
VISION = "model.vision_tower.vision_tower.vision_model."
UNUSED = {
    f"model.audio_tower.audio_tower.{part}.{kind}"
    for part in ("projector", "classifier")
    for kind in ("weight", "bias")
}


def load(directory: Path) -> Any:
    return HumanOmniForConditionalGeneration.from_pretrained(directory)


@pytest.fixture
def original(golden_directory: Path, tmp_path: Path) -> Path:
    """A writable copy of the golden checkpoint, without its inputs and outputs."""
    copy = tmp_path / "original"
    ignore = shutil.ignore_patterns("inputs.safetensors", "outputs.safetensors")
    shutil.copytree(golden_directory, copy, ignore=ignore, copy_function=shutil.copyfile)
    for folder in (copy, *(p for p in copy.rglob("*") if p.is_dir())):
        folder.chmod(0o755)
    return copy


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def resettle(directory: Path, **changes: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_an_original_directory_is_read_with_an_account_of_every_tensor(original: Path) -> None:
    report = read_checkpoint(original).report
    assert len(report.used) == 300
    assert set(report.unused) == UNUSED
    assert report.towers == dict.fromkeys(("vision", "audio", "gate"), "from the checkpoint itself")
    assert "300 tensors used, 4 unused" in report.render()


def test_our_layout_of_an_original_gives_equal_logits_and_its_names(
    golden: Any, tmp_path: Path
) -> None:
    golden.model.save_pretrained(tmp_path)
    theirs = load_file(golden.directory / "model.safetensors").keys()
    assert load_file(tmp_path / "model.safetensors").keys() == theirs - UNUSED
    again = load(tmp_path)
    again.save_pretrained(tmp_path)  # a second time: no name may grow another prefix
    with torch.no_grad():
        expected = golden.model(**golden.prompt()).logits
        assert torch.equal(load(tmp_path)(**golden.prompt()).logits, expected)


def test_the_config_of_an_original_is_translated(original: Path) -> None:
    config = HumanOmniConfig.from_pretrained(original)
    assert config.model_type == "humanomni"
    assert (config.text_config.hidden_size, config.vision_config.hidden_size) == (48, 32)
    assert (config.visual_tokens, config.audio_tokens) == (128, 100)
    assert config.text_config.rope_parameters["rope_theta"] == 1e6


def test_weights_only_bin_files_are_read_and_pickles_are_not(original: Path) -> None:
    tensors = load_file(original / "model.safetensors")
    (original / "model.safetensors").unlink()
    torch.save(tensors, original / "pytorch_model.bin")
    assert set(read_checkpoint(original).report.used.values()) == {"pytorch_model.bin"}

    torch.save({"model.norm.weight": Path("/")}, original / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: truncated, or not a plain file"):
        load(original)


def test_shards_are_read_and_a_missing_one_is_named(original: Path) -> None:
    tensors = load_file(original / "model.safetensors")
    (original / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[:100], "b.safetensors": names[100:]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, original / file)
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (original / "model.safetensors.index.json").write_text(json.dumps(index))
    load(original)
    (original / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"b\.safetensors: cannot be read"):
        load(original)


def test_siglip_names_of_newer_transformers_are_understood(original: Path) -> None:
    def shorten(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if n.startswith(VISION)]:
            tensors[name.replace(".vision_model.", ".")] = tensors.pop(name)

    rewrite(original, shorten)
    load(original)


def test_towers_come_from_their_own_folders_where_the_checkpoint_has_none(
    original: Path, golden: Any
) -> None:
    tensors = load_file(original / "model.safetensors")
    own: dict[str, dict[str, Tensor]] = {"siglip": {}, "whisper": {}, "bert": {}}
    for name in list(tensors):
        if name.startswith(VISION):
            own["siglip"]["vision_model." + name.removeprefix(VISION)] = tensors.pop(name)
        elif name.startswith("model.audio_tower."):
            bare = name.removeprefix("model.audio_tower.audio_tower.")
            prefix = "model." if bare.startswith("encoder.") else ""
            own["whisper"][prefix + bare] = tensors.pop(name)
        elif name.startswith("model.bert_model."):
            bare = name.removeprefix("model.bert_model.").replace(
                "LayerNorm.weight", "LayerNorm.gamma"
            )
            own["bert"]["bert." + bare.replace("LayerNorm.bias", "LayerNorm.beta")] = tensors.pop(
                name
            )
    own["siglip"]["text_model.embeddings.token_embedding.weight"] = torch.zeros(2, 2)
    own["whisper"]["model.decoder.embed_tokens.weight"] = torch.zeros(2, 2)
    own["bert"]["cls.predictions.bias"] = torch.zeros(2)
    save_file(tensors, original / "model.safetensors")
    for folder, part in own.items():
        save_file(part, original / folder / "model.safetensors")

    report = read_checkpoint(original).report
    assert report.towers["vision"] == f"from {original / 'siglip'}"
    assert "siglip: text_model.embeddings.token_embedding.weight" in report.unused
    with torch.no_grad():
        expected = golden.model(**golden.prompt()).logits
        assert torch.equal(load(original)(**golden.prompt()).logits, expected)


def test_tower_weights_in_the_checkpoint_win_over_the_folders(original: Path) -> None:
    other = BertModel(BertConfig.from_pretrained(original / "bert"))
    save_file(other.state_dict(), original / "bert" / "model.safetensors")
    name = "model.bert_model.embeddings.word_embeddings.weight"
    inside = load_file(original / "model.safetensors")[name]
    assert torch.equal(load(original).state_dict()[name], inside)


def test_the_tower_paths_of_another_machine_are_looked_for_beside_the_checkpoint(
    original: Path,
) -> None:
    resettle(original, mm_vision_tower="/nowhere/models/siglip", bert_path="/nowhere/bert")
    load(original)
    (original / "bert").rename(original.parent / "bert")
    load(original)
    resettle(original, mm_vision_tower="/nowhere/models/elsewhere")
    with pytest.raises(
        ValueError, match=r"config\.json: mm_vision_tower: /nowhere/models/elsewhere"
    ):
        load(original)


def test_a_head_that_contradicts_its_tie_is_refused(original: Path) -> None:
    def add_head(tensors: dict[str, Tensor], shift: float) -> None:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + shift

    rewrite(original, lambda tensors: add_head(tensors, 0.0))
    load(original)
    rewrite(original, lambda tensors: add_head(tensors, 1.0))
    with pytest.raises(ValueError, match=r"lm_head\.weight differs"):
        load(original)


NORM = "model.norm.weight"


@pytest.mark.parametrize("layout", ["original", "ours"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(NORM), f"missing tensor: {NORM}"),
        (
            lambda t: t.update(surplus=t[NORM].clone()),
            "unexpected tensor: surplus in model.safetensors",
        ),
        (
            lambda t: t.update({NORM: t[NORM].reshape(4, 12)}),
            f"reshaped tensor: {NORM} in model.safetensors has shape (4, 12), expected (48,)",
        ),
    ],
    ids=["missing", "extra", "reshaped"],
)
def test_a_wrong_tensor_is_refused_by_name(
    original: Path, tmp_path: Path, layout: str, change: Any, message: str
) -> None:
    directory = original
    if layout == "ours":
        directory = tmp_path / "ours"
        load(original).save_pretrained(directory)
    rewrite(directory, change)
    with pytest.raises(ValueError, match=re.escape(message)):
        load(directory)


def test_a_truncated_file_is_refused_by_name(original: Path) -> None:
    file = original / "model.safetensors"
    content = file.read_bytes()
    for size in (0, 5, 1000, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"model\.safetensors: truncated"):
            load(original)


def test_what_is_no_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no/such/folder: no such folder"):
        load(Path("no/such/folder"))
    with pytest.raises(ValueError, match=r"config\.json: cannot be read"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: is not JSON"):
        load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(save({"x": torch.zeros(1)}))
    with pytest.raises(ValueError, match=r"'llama'; expected 'humanomni', .* 'qwen2_5_omni'"):
        load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no weights; expected model\.safetensors"):
        load(tmp_path)


def test_a_setting_that_the_public_checkpoints_do_not_have_is_refused(original: Path) -> None:
    resettle(original, mm_projector_type="stc_connector")
    with pytest.raises(ValueError, match="mm_projector_type is 'stc_connector'"):
        load(original)


def real_config() -> HumanOmniConfig:
    return HumanOmniConfig(
        text_config=Qwen2Config(
            vocab_size=151936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
        ),
        vision_config=SiglipVisionConfig(image_size=224, patch_size=16),
        audio_config=WhisperConfig(
            d_model=1280,
            encoder_layers=32,
            encoder_attention_heads=20,
            encoder_ffn_dim=5120,
            num_mel_bins=128,
        ),
        gate_config=BertConfig(),
    )


def test_names_and_shapes_at_the_real_size_are_those_of_the_public_checkpoints() -> None:
    expected = {}
    for line in FACTS.read_text().split("# params by component")[0].splitlines():
        if not (match := re.fullmatch(r"(\S+) +\[([\d, ]+)\](?: +x(\d+))?", line.strip())):
            continue
        pattern, shape, count = match.groups()
        layer = "layer" if ".bert_model." in pattern else "layers"
        for n in range(int(count or 1)):
            name = pattern.replace("{layer}.{N}", f"{layer}.{n}")
            expected[name] = tuple(int(size) for size in shape.split(","))
    with torch.device("meta"):
        model = HumanOmniForConditionalGeneration(real_config())
    ours = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert len(expected) > 1000
    assert ours == {name: shape for name, shape in expected.items() if name not in UNUSED}
    assert (model.config.visual_tokens, model.config.audio_tokens) == (392, 500)


def test_the_default_params_build_a_model_that_auto_config_knows(tmp_path: Path) -> None:
    params = read_params(ROOT / "params.yaml")
    config = build_config(
        params.model,
        params.media,
        vocab_size=300,
        gate_vocab_size=50,
        eos_token_id=1,
        pad_token_id=0,
    )
    media, vision = params.media, params.model.vision
    positions = media.audio_seconds * media.sampling_rate / media.hop_length / 2
    side = media.image_size / vision.patch_size
    assert config.audio_config.max_source_positions == positions
    assert config.visual_tokens == media.num_frames * (side / 2) ** 2
    assert config.text_config.pad_token_id is None  # else its embedding would stay zero
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.to_diff_dict() | {"_name_or_path": ""} == config.to_diff_dict() | {
        "_name_or_path": ""
    }
    assert HumanOmniForConditionalGeneration(config).lm_head.weight.shape[0] == 300


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_config": {"image_size": 48, "patch_size": 16}}, "odd patch grid of 3"),
        ({"vision_config": {"image_size": 50, "patch_size": 16}}, "not a whole number of patches"),
        ({"vision_select_layer": -14}, "vision_select_layer -14"),
        ({"audio_pool": 0}, "audio_pool 0"),
        ({"projector_type": "linear"}, "projector_type 'linear' is unknown"),
        ({"answer_mode": "guess"}, "answer_mode 'guess' is unknown; known: reasoned, direct"),
    ],
)
def test_an_unsupported_shape_is_refused_by_the_config(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        HumanOmniConfig(**changes)
