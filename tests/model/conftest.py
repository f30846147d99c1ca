"""The golden checkpoint with its tensors, and a model of a few thousand parameters."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, Qwen2Config, SiglipVisionConfig, WhisperConfig

from r1omni.model import HumanOmniConfig, HumanOmniForConditionalGeneration

GOLDEN = Path(__file__).parents[2] / "../shared/golden/golden_a"


@dataclass(frozen=True)
class Golden:
    """What the original code computed, and our model with the same weights."""

    directory: Path
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    model: HumanOmniForConditionalGeneration

    def prompt(self) -> dict[str, Tensor]:
        """The keyword arguments of `forward` for the golden prompt, media raw."""
        return {
            "input_ids": self.inputs["input_ids"],
            "attention_mask": self.inputs["attention_mask"],
            "pixel_values_videos": self.inputs["pixel_frames"],
            "input_features": self.inputs["input_features"],
            "gate_input_ids": self.inputs["bert_input_ids"],
            "gate_attention_mask": self.inputs["bert_attention_mask"],
        }


@pytest.fixture
def golden_directory() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip("the reference tensors (../shared/golden) do not stand beside this clone")
    return GOLDEN.resolve()


@pytest.fixture
def golden(golden_directory: Path) -> Golden:
    return Golden(
        golden_directory,
        load_file(golden_directory / "inputs.safetensors"),
        load_file(golden_directory / "outputs.safetensors"),
        HumanOmniForConditionalGeneration.from_pretrained(golden_directory),
    )


@pytest.fixture
def small_config() -> HumanOmniConfig:
    """2 frames of 4 x 4 patches (8 visual tokens), 20 audio positions (6 audio tokens)."""
    return HumanOmniConfig(
        text_config=Qwen2Config(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        vision_config=SiglipVisionConfig(
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
        ),
        audio_config=WhisperConfig(
            d_model=8,
            encoder_ffn_dim=12,
            encoder_layers=1,
            encoder_attention_heads=2,
            num_mel_bins=6,
            max_source_positions=20,
        ),
        gate_config=BertConfig(
            vocab_size=30,
            hidden_size=8,
            intermediate_size=12,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
        ),
        num_frames=2,
        gate_hidden_size=12,
        eos_token_id=1,
        pad_token_id=0,
    )


@pytest.fixture
def small_model(small_config: HumanOmniConfig) -> HumanOmniForConditionalGeneration:
    torch.manual_seed(0)
    return HumanOmniForConditionalGeneration(small_config).eval()
