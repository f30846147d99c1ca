"""params.yaml's sections of the trainings: base, cold start, label SFT, GRPO, held-out clips.

Imports no torch. Every default value stands in params.yaml and nowhere else.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from r1omni.section import Count, Fraction, Positive, Section, Seed

# Rewards that need a judge's word on the clips that GRPO learns from, which `judges` then gives.
JUDGED_REWARDS: Final = ("grounding", "reader")
BUILT_IN_REWARDS: Final = ("accuracy", "format", "votes", *JUDGED_REWARDS)
# The columns of rollouts.parquet (training/rollout_table.py) beside those of the rewards.
ROLLOUT_COLUMNS: Final = (
    *("step", "clip_id", "label", "prompt", "group", "completion"),
    *("reward", "advantage", "n_tokens", "finished"),
)
_FUNCTION: Final = re.compile(r"[a-z_]\w*(\.[a-z_]\w*)*:[a-z_]\w*", re.IGNORECASE)


class DropoutParams(Section):
    """How many of the clips that a step learns from lack their picture, how many their sound."""

    video: Fraction
    audio: Fraction

    @field_validator("audio")
    @classmethod
    def _one_is_left(cls, audio: float, info: ValidationInfo) -> float:
        if audio + info.data.get("video", 0.0) > 1.0:
            raise ValueError("video and audio must not exceed 1 together: no clip lacks both")
        return audio


class SFTParams(Section):
    """Supervised fine-tuning."""

    seed: Seed
    epochs: Count
    batch_size: Count
    lr: Positive
    warmup: Fraction
    weight_decay: Annotated[float, Field(ge=0.0)]
    max_grad_norm: Positive
    balance: Fraction


class ReadingParams(Section):
    """Lessons with a given rationale: another clip is shown, and only the answer is learned."""

    per_clip: Annotated[int, Field(ge=0)]
    reversed: Fraction
    answer_weight: Positive
    reader_penalty: Positive


class ColdStartParams(SFTParams):
    """SFT on rationales (EMER-SFT)."""

    clips: Annotated[int, Field(ge=0)] | None
    modality_dropout: DropoutParams
    reading_lessons: ReadingParams


class LabelSFTParams(SFTParams):
    """SFT on bare labels (MAFW-DFEW-SFT)."""

    start: Literal["base", "cold_start"]
    modality_dropout: DropoutParams


class BaseParams(Section):
    """The base model: convert a public checkpoint, or train tiny towers and align them."""

    source: Path
    allow: tuple[str, ...]
    seed: Seed
    tower_steps: Count
    tower_batch_size: Count
    tower_lr: Positive
    connector_steps: Count
    emotion_share: Fraction
    emotion_label_noise: Fraction
    align: SFTParams


class GroundingParams(Section):
    """The reward `grounding`: what of a rationale the claim judges bear out."""

    sides: Annotated[tuple[Literal["face", "voice"], ...], Field(min_length=1)]
    min_claims: Count
    term: Literal["precision", "recall", "specificity"]


class DynamicSamplingParams(Section):
    """Sampling more clips until enough groups teach (DAPO, arXiv 2503.14476)."""

    max_factor: Count


class GRPOParams(Section):
    """Group relative policy optimisation (arXiv 2402.03300; R1-Omni: arXiv 2503.05379)."""

    seed: Seed
    steps: Count
    clips_per_step: Count
    group_size: Annotated[int, Field(ge=2)]
    temperature: Positive
    max_new_tokens: Count
    lr: Positive
    warmup: Fraction
    weight_decay: Annotated[float, Field(ge=0.0)]
    max_grad_norm: Positive
    kl_coef: Annotated[float, Field(ge=0.0)]
    balance: Fraction
    advantage: Literal["group", "batch", "none", "rejection"]
    advantage_eps: Positive
    each_reward: bool
    loss: Literal["grpo", "dr_grpo", "dapo"]
    mask_truncated: bool
    updates_per_batch: Count
    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)]
    clip_high: Positive
    dynamic_sampling: DynamicSamplingParams
    reward_weights: Mapping[str, Annotated[float, Field(ge=0.0)]]
    grounding: GroundingParams
    modality_dropout: DropoutParams

    @field_validator("reward_weights", mode="before")
    @classmethod
    def _known_rewards(cls, weights: Any) -> Any:
        if not isinstance(weights, Mapping):
            return weights
        for name, weight in weights.items():
            if name not in BUILT_IN_REWARDS and not _FUNCTION.fullmatch(str(name)):
                raise ValueError(
                    f"{name!r} is no reward: expected one of {', '.join(BUILT_IN_REWARDS)}, or "
                    "your own as package.module:function"
                )
            if isinstance(weight, bool):
                raise ValueError("expected a number, not true or false")
            if isinstance(weight, int | float) and weight < 0:
                raise ValueError(f"the weight of {name} is {weight}: expected 0 or more")
        names = [str(name).rpartition(":")[2] for name in weights]
        taken = ("total", *ROLLOUT_COLUMNS)
        if refused := [name for name in names if names.count(name) > 1 or name in taken]:
            raise ValueError(
                f"{refused[0]!r} is the name of another metric or of a column of the rollouts: "
                "give the function another name"
            )
        return weights

    @field_validator("reward_weights")
    @classmethod
    def _some_reward_counts(cls, weights: Mapping[str, float]) -> Mapping[str, float]:
        if not any(weight > 0.0 for weight in weights.values()):
            raise ValueError("at least one reward must have a weight above 0")
        return weights

    @model_validator(mode="after")
    def _advantage_fits(self) -> "GRPOParams":
        if self.each_reward and self.advantage != "group":
            raise ValueError("each_reward needs advantage: group")
        graded = {n for n, w in self.reward_weights.items() if w > 0.0} - {"accuracy", "format"}
        if self.advantage == "rejection" and graded:
            raise ValueError(
                "advantage: rejection needs rewards that are 0 or 1, accuracy and format; "
                f"{min(graded)} may be between"
            )
        return self

    @property
    def needs_judges(self) -> bool:
        """Whether a reward asks the judges about the clips that GRPO learns from."""
        return any(name in JUDGED_REWARDS for name in self.reward_weights)


class HeldOutParams(Section):
    """Training clips that label SFT and GRPO never see: what settings are chosen by."""

    NOT_RECIPE = frozenset({"every"})

    clips: Annotated[int, Field(ge=0)]
    seed: Seed
    every: Count


class AdapterParams(Section):
    """LoRA (arXiv 2106.09685) on the decoder's linear layers; all else stays as it is."""

    rank: Count
    alpha: Positive
    targets: Annotated[tuple[Literal["attention", "mlp"], ...], Field(min_length=1)]

    @field_validator("targets")
    @classmethod
    def _each_once(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(targets)) < len(targets):
            raise ValueError(f"each once, not {', '.join(targets)}")
        return targets


class EngineParams(Section):
    """The numbers that base, SFT and GRPO are trained in, and what SFT and GRPO train."""

    NOT_RECIPE = frozenset({"skip_nonfinite"})  # so that it can be set after a failure

    dtype: Literal["fp32", "bf16"]
    adapter: AdapterParams | None
    skip_nonfinite: Annotated[int, Field(ge=0)]
