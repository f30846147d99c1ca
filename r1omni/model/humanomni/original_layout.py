"""The layout of an original HumanOmni checkpoint: its config.json and its three towers' folders.

config.json has model_type `HumanOmni_qwen2` and names the folders or hub repositories of the
towers. conversion.py reads the tensors.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import BertConfig, Qwen2Config, SiglipVisionConfig, WhisperConfig

from r1omni.model.weights import find_directory, read_json

ORIGINAL_MODEL_TYPE = "HumanOmni_qwen2"
PROJECTOR_TYPE = "all_in_one_small"

REQUIRED_TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
)
OPTIONAL_TEXT_KEYS = (
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "initializer_range",
    "max_window_layers",
    "rope_scaling",
    "sliding_window",
    "use_sliding_window",
)
# what the original code can be set to, and the one setting that all public checkpoints have
ONLY_SETTINGS = {
    "mm_projector_type": PROJECTOR_TYPE,
    "mm_audio_projector_type": "mlp2x_gelu",
    "mm_vision_select_feature": "patch",
}


@dataclass(frozen=True)
class Tower:
    """One of the three towers: where its tensors go, and how its own repository spells them."""

    prefix: str  # of its tensors in the model
    config_key: str  # of its place in the original config.json
    hub_id: str  # where the public checkpoints took it from
    strip: tuple[str, ...]  # prefixes in its own repository
    unused: re.Pattern[str]  # what its own repository holds besides


TOWERS = {
    "vision": Tower(
        "model.vision_tower.vision_tower.vision_model.",
        "mm_vision_tower",
        "google/siglip-base-patch16-224",
        ("vision_model.",),
        re.compile(r"text_model\..*|logit_(scale|bias)|.*position_ids"),
    ),
    "audio": Tower(
        "model.audio_tower.audio_tower.encoder.",
        "mm_audio_tower",
        "openai/whisper-large-v3",
        ("model.encoder.", "encoder."),
        re.compile(r"(model\.)?decoder\..*|proj_out\..*|(projector|classifier)\.(weight|bias)"),
    ),
    "gate": Tower(
        "model.bert_model.",
        "bert_path",
        "google-bert/bert-base-uncased",
        ("bert.",),
        re.compile(r"cls\..*|.*(position|token_type)_ids"),
    ),
}


def original_settings(directory: Path) -> dict[str, Any]:
    """The arguments of our config for an original directory, with its towers' own configs.

    Raises ValueError, naming the file and the key, for a setting that is missing or unknown to us.
    """
    file = directory / "config.json"
    settings = read_json(file)
    for key, only in ONLY_SETTINGS.items():
        if settings.get(key, only) != only:
            raise ValueError(f"{file}: {key} is {settings[key]!r}; only {only!r} is supported")
    if missing := [key for key in REQUIRED_TEXT_KEYS if key not in settings]:
        raise ValueError(f"{file}: {missing[0]} is missing")
    keys = (*REQUIRED_TEXT_KEYS, *OPTIONAL_TEXT_KEYS)
    folders = {name: tower_directory(directory, settings, name, weights=False) for name in TOWERS}
    found = {
        "text_config": Qwen2Config(**{key: settings[key] for key in keys if key in settings}),
        "vision_config": SiglipVisionConfig.from_pretrained(folders["vision"]),
        "audio_config": WhisperConfig.from_pretrained(folders["audio"], encoder_layerdrop=0.0),
        "gate_config": BertConfig.from_pretrained(folders["gate"]),
        "vision_select_layer": settings.get("mm_vision_select_layer", -2),
        "num_frames": settings.get("num_frames", 8),
        "image_aspect_ratio": settings.get("image_aspect_ratio", "pad"),
        "tie_word_embeddings": settings.get("tie_word_embeddings", False),
        "bos_token_id": settings.get("bos_token_id"),
        "eos_token_id": settings.get("eos_token_id"),
        "pad_token_id": settings.get("pad_token_id"),
        "dtype": settings.get("torch_dtype"),
    }
    for key, width in (
        ("mm_hidden_size", found["vision_config"].hidden_size),
        ("audio_hidden_size", found["audio_config"].d_model),
    ):
        if settings.get(key, width) != width:
            raise ValueError(f"{file}: {key} is {settings[key]}, but the tower's width is {width}")
    return found


def tower_directory(
    directory: Path, settings: Mapping[str, Any], tower_name: str, *, weights: bool
) -> Path:
    """The folder of a tower: as named in config.json, beside the checkpoint, or from the hub.

    Public configs name folders of the machine that trained them; the last part of such a path is
    then looked for inside the checkpoint, beside it, and on the hub where it is the usual tower.
    """
    tower = TOWERS[tower_name]
    place = str(settings.get(tower.config_key) or tower.hub_id)
    name = Path(place).name
    for folder in (directory / place, Path(place), directory / name, directory.parent / name):
        if (folder / "config.json").is_file():
            return folder
    if name == Path(tower.hub_id).name:
        place = tower.hub_id
    try:
        return find_directory(place, {}, weights=weights)
    except ValueError as error:
        raise ValueError(f"{directory / 'config.json'}: {tower.config_key}: {error}") from error
