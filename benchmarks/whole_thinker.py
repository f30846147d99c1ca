"""Writes a Qwen2.5-Omni in the public checkpoints' layout, with random weights at any size.

The thinker's tensors have the names of transformers 4 behind `thinker.`; one tensor each stands for
the talker and its vocoder. Used by rehearse.py and the checkpoints' tests, because the real ones
are not at hand.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MEDIA = "r1omni_media"  # ours, which no public checkpoint has


def old_name(name: str) -> str:
    """A thinker's tensor as transformers 4 and the public checkpoints spell it."""
    name = name.replace("model.language_model.", "model.")
    return name.removeprefix("model.") if name.startswith(("model.audio", "model.visual")) else name


def make_whole(folder: Path) -> None:
    """Turn a thinker's checkpoint that we wrote into a whole Qwen2.5-Omni's, in place."""
    tensors = {f"thinker.{old_name(n)}": x for n, x in load_file(folder / WEIGHTS).items()}
    tensors |= {"talker.codec_head.weight": torch.ones(2, 2), "token2wav.x": torch.ones(1)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(whole_config(config), indent=1), encoding="utf-8")


def whole_config(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the whole, with the rotary settings' old spelling."""
    config = {key: value for key, value in config.items() if key != MEDIA}
    text = dict(config["text_config"])
    rope = dict(text.pop("rope_parameters"))
    text["rope_theta"] = rope.pop("rope_theta")
    text["rope_scaling"] = rope | {"type": "default"}
    thinker = config | {"text_config": text}
    return {"model_type": "qwen2_5_omni", "thinker_config": thinker, "talker_config": {}}
