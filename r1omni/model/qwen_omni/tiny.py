"""A small random thinker, where none is loaded from a checkpoint."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import (
    Qwen2_5OmniAudioEncoderConfig,
    Qwen2_5OmniTextConfig,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2_5OmniVisionEncoderConfig,
)

from r1omni.media import QwenMedia
from r1omni.model.qwen_omni.backbone import QwenOmniBackbone
from r1omni.model.qwen_omni.checkpoint import read_processor_files
from r1omni.model.qwen_omni.prompt import CONFIG_NAMES, CONTROL
from r1omni.model.tokenizers import read_tokenizer, train_tokenizer


def build_qwen_omni(texts: Sequence[str], *, model: Any, media: Any) -> QwenOmniBackbone:
    """A random thinker of these sizes, by torch's own generator, with a tokenizer of the texts.

    `model` has vision (hidden_size, intermediate_size, depth, num_heads, patch_size), audio
    (d_model, encoder_ffn_dim, encoder_layers, encoder_attention_heads, num_mel_bins), text
    (hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, num_key_value_heads)
    and max_vocab_size; `media` the fields of QwenMedia that those do not give. The head is untied.
    """
    trained = train_tokenizer(texts, model.max_vocab_size, CONTROL)
    with tempfile.TemporaryDirectory() as name:  # as from a checkpoint's folder
        trained.save_pretrained(name)
        tokenizer, files = read_tokenizer(Path(name)), read_processor_files(Path(name))
    known = tokenizer.get_vocab()
    thinker = Qwen2_5OmniThinkerForConditionalGeneration(
        build_config(model, len(tokenizer), {k: known[v] for k, v in CONFIG_NAMES.items()})
    )
    settings = QwenMedia(
        num_frames=media.num_frames,
        min_pixels=media.min_pixels,
        max_pixels=media.max_pixels,
        sampling=media.sampling,
        sampling_rate=media.sampling_rate,
        audio_seconds=media.audio_seconds,
        audio_in_video=getattr(media, "audio_in_video", False),
        patch_size=model.vision.patch_size,
        num_mel_bins=model.audio.num_mel_bins,
    )
    return QwenOmniBackbone(thinker.eval(), tokenizer, settings, files)


def build_config(model: Any, vocab_size: int, token_ids: dict[str, int]) -> Any:
    """The thinker's config, for a tokenizer of `vocab_size`; `token_ids` by config.json's names.

    The vision tower's last block attends to whole frames, the others to windows. The rotary pairs
    go to time, height and width as in the public checkpoints, 16 : 24 : 24.
    """
    vision, audio, text = model.vision, model.audio, model.text
    pairs = text.hidden_size // text.num_attention_heads // 2
    time = pairs // 4
    high = (pairs - time) // 2
    return Qwen2_5OmniThinkerConfig(
        vision_config=Qwen2_5OmniVisionEncoderConfig(
            hidden_size=vision.hidden_size,
            intermediate_size=vision.intermediate_size,
            depth=vision.depth,
            num_heads=vision.num_heads,
            patch_size=vision.patch_size,
            window_size=8 * vision.patch_size,
            out_hidden_size=text.hidden_size,
            fullatt_block_indexes=[vision.depth - 1],
        ),
        audio_config=Qwen2_5OmniAudioEncoderConfig(
            d_model=audio.d_model,
            encoder_ffn_dim=audio.encoder_ffn_dim,
            encoder_layers=audio.encoder_layers,
            encoder_attention_heads=audio.encoder_attention_heads,
            num_mel_bins=audio.num_mel_bins,
            output_dim=text.hidden_size,
        ),
        text_config=Qwen2_5OmniTextConfig(
            vocab_size=vocab_size,
            hidden_size=text.hidden_size,
            intermediate_size=text.intermediate_size,
            num_hidden_layers=text.num_hidden_layers,
            num_attention_heads=text.num_attention_heads,
            num_key_value_heads=text.num_key_value_heads,
            tie_word_embeddings=False,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [time, high, pairs - time - high],
            },
        ),
        tie_word_embeddings=False,
        answer_mode="direct",
        **token_ids,
    )
