"""Writes a HumanOmni in the public checkpoints' layout, with random weights at any size.

Our tensor names are the originals', so only config.json and the towers' folders differ. Used by
full_size.py, rehearse.py and the conversion's tests, because the real checkpoints are not at hand.
"""

import json
from pathlib import Path

from safetensors.torch import save_file

from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.humanomni.original_layout import REQUIRED_TEXT_KEYS

TOWERS = {
    "siglip": ("model.vision_tower.vision_tower.", ""),
    "whisper": ("model.audio_tower.audio_tower.encoder.", "model.encoder."),
    "bert": ("model.bert_model.", "bert."),
}


def write_original(
    model: HumanOmniForConditionalGeneration,
    processor: HumanOmniProcessor,
    folder: Path,
    *,
    towers_inside: bool = True,
) -> None:
    """Write config.json, weights, tokenizer and the folders siglip, whisper and bert.

    `towers_inside`: the towers' weights are in the checkpoint, otherwise in their own folders.
    """
    tensors = {name: t.contiguous() for name, t in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    folder.mkdir(parents=True, exist_ok=True)
    processor.tokenizer.save_pretrained(folder)
    for name, (inside, own) in TOWERS.items():
        (folder / name).mkdir(exist_ok=True)
        if not towers_inside:
            part = {n: tensors.pop(n) for n in list(tensors) if n.startswith(inside)}
            bare = {own + n.removeprefix(inside): t for n, t in part.items()}
            save_file(bare, folder / name / "model.safetensors", metadata={"format": "pt"})
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_towers(model, processor, folder)
    _write(folder / "config.json", _settings(model))


def _settings(model: HumanOmniForConditionalGeneration) -> dict[str, object]:
    config, text = model.config, model.config.text_config
    kept = (*REQUIRED_TEXT_KEYS, "attention_dropout", "hidden_act", "initializer_range")
    return {
        **{key: getattr(text, key) for key in kept if key != "rope_theta"},
        "model_type": "HumanOmni_qwen2",
        "architectures": ["HumanOmniQwen2ForCausalLM"],
        "rope_theta": text.rope_parameters["rope_theta"],
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "torch_dtype": str(model.dtype).removeprefix("torch."),
        "mm_projector_type": config.projector_type,
        "mm_audio_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": config.vision_select_layer,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": config.vision_config.hidden_size,
        "audio_hidden_size": config.audio_config.d_model,
        "mm_use_x_start_end": True,
        "num_frames": config.num_frames,
        "image_aspect_ratio": config.image_aspect_ratio,
        "mm_vision_tower": "/somebody/elses/machine/siglip",  # as in the public ones
        "mm_audio_tower": "whisper",
        "bert_path": "bert",
    }


def _write_towers(
    model: HumanOmniForConditionalGeneration, processor: HumanOmniProcessor, folder: Path
) -> None:
    config, media = model.config, processor.media
    vision = config.vision_config.to_dict()
    _write(folder / "siglip/config.json", {"model_type": "siglip", "vision_config": vision})
    side = {"height": media.image_size, "width": media.image_size}
    _write(
        folder / "siglip/preprocessor_config.json",
        {
            "resample": 3,
            "size": side,
            "image_mean": list(media.image_mean),
            "image_std": list(media.image_std),
        },
    )
    config.audio_config.save_pretrained(folder / "whisper")
    _write(
        folder / "whisper/preprocessor_config.json",
        {
            "sampling_rate": media.sampling_rate,
            "chunk_length": media.n_samples // media.sampling_rate,
            "n_fft": media.n_fft,
            "hop_length": media.hop_length,
            "feature_size": media.num_mel_bins,
        },
    )
    config.gate_config.save_pretrained(folder / "bert")
    processor.gate_tokenizer.save_pretrained(folder / "bert")


def _write(file: Path, value: dict[str, object]) -> None:
    file.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
