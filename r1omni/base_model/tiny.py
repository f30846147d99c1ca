"""The backbone that the base stage builds or reads: params.yaml's `model.backbone` chooses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from r1omni.base_model import humanomni, qwen_omni
from r1omni.base_model.connector import Connector
from r1omni.base_model.towers import Tower
from r1omni.model.backbone import Backbone
from r1omni.model.conversion_report import ConversionReport
from r1omni.model.loading import QWEN_OMNI
from r1omni.model.weights import find_directory, read_json
from r1omni.model_config import (
    HumanOmniMediaParams,
    HumanOmniParams,
    MediaParams,
    ModelParams,
    QwenOmniMediaParams,
    QwenOmniParams,
)
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
    if isinstance(model, HumanOmniParams) and isinstance(media, HumanOmniMediaParams):
        built = humanomni.build_untrained(captions, rationales, model=model, media=media)
        return TinyBase(
            built, humanomni.humanomni_towers(built), humanomni.humanomni_connectors(built)
        )
    assert isinstance(model, QwenOmniParams)
    assert isinstance(media, QwenOmniMediaParams)
    thinker = qwen_omni.build_untrained(captions, rationales, model=model, media=media)
    return TinyBase(thinker, qwen_omni.thinker_towers(thinker), {})


def read_public(
    source: Path, *, base: BaseParams, model: ModelParams, media: MediaParams
) -> tuple[Backbone, ConversionReport]:
    """A public checkpoint, and the account of what became of its tensors.

    Raises ValueError where it is another backbone's than params.yaml says.
    """
    config = find_directory(source, {}, weights=False) / "config.json"
    kind = read_json(config).get("model_type")
    if (kind in QWEN_OMNI) != isinstance(model, QwenOmniParams):
        raise ValueError(
            f"{config}: model_type {kind!r} is no {model.backbone}, which params.yaml names as "
            "model.backbone"
        )
    if isinstance(media, QwenOmniMediaParams):
        return qwen_omni.read_thinker(source, allow=base.allow, media=media)
    return humanomni.read_humanomni(source, allow=base.allow, sampling=media.sampling)
