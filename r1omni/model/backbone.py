"""What the recipe knows of a model: the protocol `Backbone`, and how a prompt becomes its prefix.

Two backbones differ in `encode`, `ask` and `embed`; everything behind them is shared. Shapes: `P`
prompts, `L` prompt ids, `L'` positions of the expanded prompt, `D` width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from r1omni.media import Preparation, TowerInputs
from r1omni.model.feature_store import Features
from r1omni.model.head import LanguageModelHead
from r1omni.model.shared_prefix import Embedded, Prefix, prefill
from r1omni.prompts import AnswerMode
from r1omni.training_config import AdapterParams


@dataclass(frozen=True)
class PromptBatch:
    """P prompts and their clips, as `embed` takes them, on one device."""

    tensors: Mapping[str, Tensor]  # (P, …) each: padded ids, their masks, what else `embed` reads
    media: tuple[Features, ...]  # one a prompt

    def __len__(self) -> int:
        return len(self.media)

    def select(self, prompts: Sequence[int]) -> "PromptBatch":
        """Only some prompts, by their index."""
        tensors = {name: tensor[list(prompts)] for name, tensor in self.tensors.items()}
        return PromptBatch(tensors, tuple(self.media[i] for i in prompts))


class LanguageModel(Protocol):
    """A causal language model under transformers' own names."""

    model: Any  # embed_tokens, layers, norm and rotary_emb; its layers as decoder_layers.py needs
    lm_head: LanguageModelHead


class Backbone(Protocol):
    """A model that answers questions about clips, with its tokenizer and its media settings."""

    answer_mode: AnswerMode  # how the checkpoint is asked, and in which form it answers

    conversion: str | None  # what became of the tensors of another layout than ours

    adapter: AdapterParams | None  # LoRA on the decoder, if there is one (adapters.py)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """What ends a completion; the first is what it is trained to write."""
        ...

    @property
    def module(self) -> nn.Module:
        """What is trained and saved: towers, connector and language model."""
        ...

    @property
    def language_model(self) -> LanguageModel:
        """What continues an embedded prompt."""
        ...

    @property
    def preparation(self) -> Preparation:
        """How a clip file becomes what `encode` takes."""
        ...

    def freeze(self) -> None:
        """Take no gradient where the recipe trains nothing."""
        ...

    def towers(self) -> Sequence[nn.Module]:
        """What makes a clip's features, which are cached: in the base's precision always."""
        ...

    def frozen_copy(self) -> "Backbone":
        """A copy without gradients and without towers, for features that are cached."""
        ...

    def tower_fingerprint(self) -> str:
        """What identifies the towers' outputs: a hash of weights, settings and code."""
        ...

    def clip_bytes(self) -> int:
        """How many bytes a clip's features take on disk, at most."""
        ...

    def encode(self, clips: Sequence[TowerInputs]) -> list[Features]:
        """The towers' outputs in half precision, on the CPU, one mapping a clip.

        Raises ValueError where they do not fit half precision.
        """
        ...

    def ask(
        self,
        features: Sequence[Features],
        instructions: Sequence[str],
        begun: Sequence[Sequence[int]] | None = None,
    ) -> PromptBatch:
        """One prompt per clip, left-padded, on the model's device.

        `begun`: the ids of each completion that are there already, as label probabilities need.
        """
        ...

    def embed(self, asked: PromptBatch) -> Embedded:
        """The expanded prompts (P, L', D), with the gradient of what is trained before the decoder.

        Every rank of a distributed run reaches the same parameters, whatever its clips lack.
        """
        ...

    def encode_completion(self, text: str) -> list[int]:
        """A completion's ids with the end that it is trained to write; no text can end a turn."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a completion's ids, without the end token that it ends with."""
        ...

    def sizes(self) -> dict[str, int]:
        """How many parameters there are: `total`, and `language_model` among them."""
        ...

    def save(self, folder: Path, parent: Path | None) -> None:
        """Write a checkpoint that `load_backbone` and transformers read.

        What the recipe does not train has the precision of the checkpoint `parent`, whichever
        precision the training had.
        """
        ...

    def save_settings(self, folder: Path) -> None:
        """Write all of a checkpoint but its tensors."""
        ...


def device_of(backbone: Backbone) -> torch.device:
    """Where the backbone's language model is."""
    return backbone.language_model.lm_head.weight.device


def prefill_asked(backbone: Backbone, asked: PromptBatch, *, checkpointing: bool = False) -> Prefix:
    """The prompts' prefix, with the gradient of all that is trained.

    With `checkpointing` the backward pass makes the language model's inner states again.
    """
    embedded = backbone.embed(asked)
    return prefill(backbone.language_model.model, embedded, checkpointing=checkpointing)


def prefill_prompts(
    backbone: Backbone,
    features: Sequence[Features],
    instructions: Sequence[str],
    *,
    checkpointing: bool = False,
) -> Prefix:
    """One prefix per clip, in the clips' order, with gradient unless torch.no_grad is on."""
    asked = backbone.ask(features, instructions)
    return prefill_asked(backbone, asked, checkpointing=checkpointing)
