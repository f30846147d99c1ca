"""The golden checkpoint with its tensors, and a model of a few thousand parameters."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, Qwen2Config, SiglipVisionConfig, WhisperConfig

from r1omni.model import HumanOmniConfig, HumanOmniForConditionalGeneration

GOLDEN = Path(__file__).parents[1] / "golden" / "golden_a"

TOLERANCE = 1e-5  # relative, for every number of the original GRPO trainer
# In float32 it holds for all but these. Measured with 24 choices of instruction set, BLAS and
# threads; in parentheses with AVX-512 as installed.
FLOAT32_TOLERANCES = {
    # The original's own rounding takes most of 1e-5: its loss is 8.7e-6 from ours in float64, its
    # KL 6.1e-6. Ours in float32 are up to 2.1e-5 (1.5e-6) and 1.5e-5 (3.0e-6) from the original's.
    "grpo.loss": 3e-5,
    "grpo.mean_kl": 2e-5,
    # The gate's gradients are small differences of large sums: ours in float32 are 7e-7 to 4.8e-5
    # (2.6e-5) from the original's, which are 3.8e-6 from ours in float64.
    "grad.model.bert_gate.2.bias": 6e-5,
    "grad.model.bert_gate.2.weight": 6e-5,
    "grad.model.bert_model.embeddings.LayerNorm.weight": 6e-5,
}


@dataclass(frozen=True)
class Golden:
    """What the original code computed, and our model with the same weights."""

    directory: Path
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    model: HumanOmniForConditionalGeneration

    def to(self, dtype: torch.dtype) -> "Golden":
        """The same in another precision.

        In float64 the tolerance measures the mathematics: what is left is the original's own
        rounding, and that of Qwen2's norms, which transformers always computes in float32.
        """

        def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}

        inputs, outputs = convert(self.inputs), convert(self.outputs)
        return Golden(self.directory, inputs, outputs, self.model.to(dtype))

    def trainer_numbers(self) -> dict[str, Tensor]:
        """What the original GRPO trainer computed, from logprobs to gradients."""
        kinds, given = ("grpo.", "grad.", "grad_norm."), "grpo.ref_per_token_logps"
        return {n: t for n, t in self.outputs.items() if n.startswith(kinds) and n != given}

    def assert_trainer_numbers(self, ours: dict[str, Tensor]) -> None:
        """Gradients are compared as vectors, everything else number by number.

        Worst relative differences of the shared prefix (AVX-512, one thread), float64 / float32:
        logprobs 2.2e-6 / 1.1e-6, advantages 4.8e-8 / 0, KL 6.1e-6 / 3.0e-6, loss 8.7e-6 / 1.5e-6,
        the gate's gradients 3.8e-6 / 2.6e-5, the others 5.5e-6 / 5.2e-6, their norm 1e-8 / 2.2e-6.
        """
        exact = self.inputs["grpo.rewards"].dtype == torch.float64
        for name, theirs in self.trainer_numbers().items():
            limit = TOLERANCE if exact else FLOAT32_TOLERANCES.get(name, TOLERANCE)
            if name.startswith("grad."):
                error = float((ours[name] - theirs).norm() / theirs.norm())
                assert error < limit, f"{name}: {error:.1e}"
            else:
                torch.testing.assert_close(
                    ours[name],
                    theirs,
                    rtol=limit,
                    atol=0.0,
                    check_dtype=False,
                    msg=lambda text, n=name: f"{n}: {text}",
                )

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
