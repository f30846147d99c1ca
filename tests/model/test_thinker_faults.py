"""Thinkers' checkpoints that are damaged, quantised or edited: one error that names the file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_qwen_checkpoints import NORM, reconfigure, rewrite
from tiny_thinker import tiny_thinker

from r1omni.inference.loading import load_checkpoint
from r1omni.model.loading import load_backbone


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("thinker") / "ours"
    tiny_thinker().save(folder, None)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.parametrize("change", [{"num_key_value_heads": 0}, {"hidden_act": "none of them"}])
def test_sizes_of_which_no_model_can_be_built_are_an_error_in_the_file(
    change: Any, folder: Path
) -> None:
    reconfigure(folder, lambda c: c | {"text_config": c["text_config"] | change})
    with pytest.raises(ValueError, match=r"config\.json: transformers cannot"):
        load_backbone(folder)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("text_config", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "mrope_"),
        ("vision_config", {"num_heads": 3}, "hidden_size 32 is no multiple of num_heads 3"),
    ],
)
def test_sizes_that_only_a_forward_would_refuse_are_an_error_in_the_file(
    part: str, change: Any, message: str, folder: Path
) -> None:
    reconfigure(folder, lambda c: c | {part: c[part] | change})
    with pytest.raises(ValueError, match=rf"config\.json: {part}: {message}"):
        load_backbone(folder)


def test_two_precisions_in_one_part_are_refused_by_name(folder: Path) -> None:
    rewrite(folder, lambda t: t | {NORM: t[NORM].bfloat16()})
    with pytest.raises(ValueError, match=r"is torch\.\w+, .* is torch\.\w+: save both in one pre"):
        load_backbone(folder)


def test_quantised_weights_are_refused_by_name(folder: Path) -> None:
    rewrite(folder, lambda t: t | {NORM: t[NORM].to(torch.int8)})
    with pytest.raises(ValueError, match=rf"{NORM} has the precision torch.int8: quantised"):
        load_backbone(folder)


def test_an_unknown_answer_mode_is_an_error_in_the_file(folder: Path) -> None:
    """It was asked directly, without a word."""
    reconfigure(folder, lambda c: c | {"answer_mode": "Reasoned"})
    with pytest.raises(ValueError, match=r"config\.json: answer_mode is 'Reasoned'; expected rea"):
        load_checkpoint(folder)
    reconfigure(folder, lambda c: c | {"answer_mode": "reasoned"})
    assert load_checkpoint(folder).answer_mode == "reasoned"


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_generation_config_is_named(text: str, folder: Path) -> None:
    (folder / "generation_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"generation_config\.json: (is not JSON|expected a JSON)"):
        load_backbone(folder)


def test_a_tokenizer_that_fits_no_embedding_or_is_damaged_is_refused(folder: Path) -> None:
    """Beyond the embedding's rows a prompt would be an IndexError, on a GPU an assertion."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    tokens = content["added_tokens"]
    tokens.append(tokens[-1] | {"id": max(t["id"] for t in tokens) + 1, "content": "one more"})
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{folder}: the tokenizer has \d+ tokens, the model em"):
        load_backbone(folder)
    path.write_text("{}")
    with pytest.raises(ValueError, match=rf"{folder}: its tokenizer cannot be read: KeyError"):
        load_backbone(folder)


def test_a_media_setting_that_we_do_not_know_is_refused(folder: Path) -> None:
    """Left out, clips would be prepared otherwise than in training."""
    reconfigure(folder, lambda c: c | {"r1omni_media": c["r1omni_media"] | {"fps": 2.0}})
    with pytest.raises(ValueError, match=r"config.json: r1omni_media: fps is no setting; known: n"):
        load_backbone(folder)
