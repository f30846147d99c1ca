"""The benchmarks are scripts beside the package: made importable, with a model of a few thousand
parameters that they and their oracle run on."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, Qwen2Config, SiglipVisionConfig, WhisperConfig

sys.path.insert(0, str(Path(__file__).parents[2]))

from r1omni.model import HumanOmniConfig


@pytest.fixture(scope="session")
def small_config() -> HumanOmniConfig:
    """2 frames of 4 x 4 patches (8 visual tokens), 20 audio positions (6 audio tokens)."""
    return HumanOmniConfig(
        text_config=Qwen2Config(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2,
        ),
        vision_config=SiglipVisionConfig(
            hidden_size=8, intermediate_size=12, num_hidden_layers=3, num_attention_heads=2,
            image_size=16, patch_size=4,
        ),
        audio_config=WhisperConfig(
            d_model=8, encoder_ffn_dim=12, encoder_layers=1, encoder_attention_heads=2,
            num_mel_bins=6, max_source_positions=20, encoder_layerdrop=0.0,
        ),
        gate_config=BertConfig(
            vocab_size=30, hidden_size=8, intermediate_size=12, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=64, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        num_frames=2, gate_hidden_size=12, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """What the models compute in."""
    kind: torch.dtype = request.param
    return kind
