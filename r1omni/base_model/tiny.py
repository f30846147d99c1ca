"""Which backbone the base stage builds or reads: params.yaml's `model.backbone` chooses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from r1omni.base_model.connector import Connector
from r1omni.base_model.humanomni import (
    build_untrained,
    humanomni_connectors,
    humanomni_towers,
    read_humanomni,
)
from r1omni.base_model.towers import Tower
from r1omni.model.backbone import Backbone
from r1omni.model_config import HumanOmniMediaParams, HumanOmniParams, MediaParams, ModelParams
from r1omni.training_config import BaseParams


@dataclass(frozen=True)
class TinyBase:
    """A backbone of random weights, and what of it is trained before the alignment, in this order.

    `connectors` is empty where they are part of the towers.
    """

    backbone: Backbone
    towers: Mapping[str, Tower]
    connectors: Mapping[str, Connector]


def build_tiny(
    captions: Sequence[str], rationales: Sequence[str], *, model: ModelParams, media: MediaParams
) -> TinyBase:
    """The tiny base of these sizes, with tokenizers trained on all the text that we use."""
    assert isinstance(model, HumanOmniParams)
    assert isinstance(media, HumanOmniMediaParams)
    backbone = build_untrained(captions, rationales, model=model, media=media)
    return TinyBase(backbone, humanomni_towers(backbone), humanomni_connectors(backbone))


def read_public(
    source: Path, *, base: BaseParams, model: ModelParams, media: MediaParams
) -> tuple[Backbone, Mapping[str, Any]]:
    """A public checkpoint, and the account of what became of its tensors."""
    return read_humanomni(source, allow=base.allow, sampling=media.sampling)
