"""params.yaml's sections `model` and `media`, of each backbone: `model.backbone` chooses.

Imports no torch. Every default value stands in params.yaml and nowhere else.
"""

from typing import Annotated, Literal

from pydantic import Field

from r1omni.section import Count, Positive, Section, at_least, divides


class MediaParams(Section):
    """How a clip becomes tensors, with any backbone."""

    num_frames: Count
    sampling: Literal["index", "time"]
    sampling_rate: Count
    audio_seconds: Positive


class TextParams(Section):
    """The Qwen2 language model."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Annotated[Count, divides("hidden_size")]
    num_key_value_heads: Annotated[Count, divides("num_attention_heads")]


class AudioParams(Section):
    """The Whisper encoder."""

    d_model: Count
    encoder_ffn_dim: Count
    encoder_layers: Count
    encoder_attention_heads: Annotated[Count, divides("d_model")]


class ModelParams(Section):
    """Which backbone, and its size where it is not loaded from a checkpoint.

    A file without the key `backbone` is from before there were two.
    """

    backbone: Literal["humanomni", "qwen2_5_omni"] = "humanomni"
    text: TextParams
    max_vocab_size: Annotated[int, Field(ge=300)]


class HumanOmniMediaParams(MediaParams):
    """How a clip becomes the inputs of SigLIP and Whisper."""

    image_size: Count
    aspect_ratio: Literal["pad", "none"]
    hop_length: Count
    n_fft: Count
    num_mel_bins: Count


class SiglipParams(Section):
    """The SigLIP tower."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Annotated[Count, divides("hidden_size")]
    patch_size: Count


class GateParams(Section):
    """The BERT that reads the instruction for the gate."""

    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Count
    num_attention_heads: Annotated[Count, divides("hidden_size")]


class HumanOmniParams(ModelParams):
    """The size of HumanOmni where it is not loaded from a checkpoint."""

    vision: SiglipParams
    audio: AudioParams
    gate: GateParams


class QwenOmniMediaParams(MediaParams):
    """How a clip becomes the inputs of Qwen2.5-Omni's towers.

    A frame keeps its shape: it is resized to at least `min_pixels` and at most `max_pixels`.
    """

    min_pixels: Count
    max_pixels: Annotated[Count, at_least("min_pixels")]
    audio_in_video: bool


class QwenVisionParams(Section):
    """Qwen2.5-Omni's vision tower."""

    hidden_size: Count
    intermediate_size: Count
    depth: Count
    num_heads: Annotated[Count, divides("hidden_size")]
    patch_size: Count


class QwenAudioParams(AudioParams):
    """Qwen2.5-Omni's audio tower."""

    num_mel_bins: Count


class QwenOmniParams(ModelParams):
    """The size of Qwen2.5-Omni's thinker where it is not loaded from a checkpoint."""

    vision: QwenVisionParams
    audio: QwenAudioParams
