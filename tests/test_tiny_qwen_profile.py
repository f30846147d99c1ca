"""The profiles of Qwen2.5-Omni: the default's world with a tiny thinker, and the 3B with LoRA."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from r1omni.config import HumanOmniProfile, QwenOmniProfile
from r1omni.params_file import ParamsError, read_params

FILE = "params/tiny_qwen.yaml"


@pytest.fixture
def values(repo) -> dict[str, Any]:
    return yaml.safe_load((repo / FILE).read_text())


def test_it_differs_from_the_default_in_model_media_and_one_rate_alone(repo, values):
    default = yaml.safe_load((repo / "params.yaml").read_text())
    assert values.keys() == default.keys()
    differing = {name for name in values if values[name] != default[name]}
    assert differing == {"base", "media", "model"}
    rate = {"tower_lr": values["base"]["tower_lr"]}
    assert values["base"] == default["base"] | rate
    assert values["model"]["text"] == default["model"]["text"]


def test_it_is_read_as_the_thinkers(repo, params):
    tiny = read_params(repo / FILE)
    assert isinstance(tiny, QwenOmniProfile)
    assert tiny.model.vision.depth == 3
    assert tiny.media.min_pixels == tiny.media.max_pixels == 56 * 56
    assert isinstance(params, HumanOmniProfile)


def test_the_3b_profile_is_the_papers_recipe_but_for_backbone_adapter_and_machine(repo):
    paper, own = (
        yaml.safe_load((repo / "params" / name).read_text())
        for name in ("paper.yaml", "qwen2_5_omni.yaml")
    )
    assert isinstance(read_params(repo / "params/qwen2_5_omni.yaml"), QwenOmniProfile)
    differing = {name for name in own if own[name] != paper[name]}
    assert differing == {
        *("hub", "media", "model", "cold_start", "label_sft", "grpo"),
        *("engine", "machine", "tracking"),
    }
    for name, lr in (("cold_start", 1e-4), ("label_sft", 1e-4), ("grpo", 1e-5)):
        assert own[name] == paper[name] | {"lr": lr}
    adapter = {"rank": 16, "alpha": 32, "targets": ["attention", "mlp"]}
    assert own["engine"] == paper["engine"] | {"adapter": adapter}
    assert (own["media"]["num_frames"], own["media"]["audio_seconds"]) == (8, 30.0)


def test_a_file_without_a_backbone_is_humanomnis(repo, tmp_path):
    path = tmp_path / "params.yaml"
    lines = (repo / "params.yaml").read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("  backbone:")))
    assert read_params(path) == read_params(repo / "params.yaml")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  backbone: qwen2_5_omni", "  backbone: qwen3",
         ":{line}: model.backbone: Input should be 'humanomni' or 'qwen2_5_omni' (got 'qwen3')"),
        ("depth: 3", "num_hidden_layers: 3",
         ":{line}: model.vision.num_hidden_layers: unknown key; known here: depth, hidden_size, "
         "intermediate_size, num_heads, patch_size"),
        ("  min_pixels: 3136", "  image_size: 56",
         ":{line}: media.image_size: unknown key; known here: audio_in_video, audio_seconds, "
         "max_pixels, min_pixels, num_frames, sampling, sampling_rate"),
        ("  max_pixels: 3136", "  max_pixels: 3135",
         ":{line}: media.max_pixels: must not be below min_pixels, which is 3136 (got 3135)"),
        ("num_heads: 4", "num_heads: 5",
         ":{line}: model.vision.num_heads: must divide hidden_size, which is 64 (got 5)"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_the_thinkers_own_keys(repo, tmp_path, old, new, expected):
    text = (repo / FILE).read_text()
    line = text[: text.index(old)].count("\n") + 1
    path: Path = tmp_path / "params.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ParamsError) as error:
        read_params(path)
    assert f"{path}{expected.format(line=line)}" in str(error.value).splitlines()
