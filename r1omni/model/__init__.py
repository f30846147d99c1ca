"""HumanOmni in transformers' conventions; importing it registers the Auto classes."""

from r1omni.model.humanomni.configuration import HumanOmniConfig, build_config
from r1omni.model.humanomni.modelling import HumanOmniForConditionalGeneration
from r1omni.model.humanomni.processor import HumanOmniProcessor

__all__ = [
    "HumanOmniConfig",
    "HumanOmniForConditionalGeneration",
    "HumanOmniProcessor",
    "build_config",
]
