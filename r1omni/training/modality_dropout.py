"""Modality dropout: some clips of a step lack their picture or sound, and honest texts say so.

What a step hides is a function of seed, step and place in the global batch, so that a resumed
training, on any number of ranks, hides the same (ModDrop: arXiv 1501.00102; for rationales that
describe a voice in silence: docs/explanation/explanations.md).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from r1omni.claims import Side
from r1omni.corpora.clip import Clip
from r1omni.model.absence import blank_features, blanked
from r1omni.model.backbone import Backbone
from r1omni.model.feature_store import Features
from r1omni.training_config import DropoutParams


@dataclass(frozen=True)
class ModalityDropout:
    """What is hidden of which clip, and the features that take its place."""

    video: float  # shares of clips
    audio: float
    seed: int
    blank: Features = field(default_factory=dict)

    def missing(
        self, step: int, places: Iterable[int], has_audio: Iterable[bool]
    ) -> list[Side | None]:
        """The missing side of the clip at each of these places of the step's global batch.

        A clip without audio keeps its picture.
        """
        drawn = [self._missing(step, place) for place in places]
        pairs = zip(drawn, has_audio, strict=True)
        return [None if side == "face" and not audible else side for side, audible in pairs]

    def hide(self, features: Sequence[Features], missing: Sequence[Side | None]) -> list[Features]:
        """The clips' features without what is missing."""
        pairs = zip(features, missing, strict=True)
        return [blanked(clip, side, self.blank) for clip, side in pairs]

    def _missing(self, step: int, place: int) -> Side | None:
        digest = hashlib.sha256(f"dropout {self.seed}/{step}/{place}".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2**64
        if drawn < self.video:
            return "face"
        return "voice" if drawn < self.video + self.audio else None


NOTHING_MISSING: Final = ModalityDropout(0.0, 0.0, 0)


def modality_dropout(backbone: Backbone, dropout: DropoutParams, seed: int) -> ModalityDropout:
    """The dropout of a training, with the towers' outputs for darkness and silence."""
    if dropout.video + dropout.audio == 0.0:
        return ModalityDropout(0.0, 0.0, seed)
    return ModalityDropout(dropout.video, dropout.audio, seed, blank_features(backbone))


def as_shown(clip: Clip, missing: Side | None) -> Clip:
    """The clip as it reaches the policy, for its rewards: without sound, or without pictures."""
    if missing is None:
        return clip
    return replace(clip, has_audio=False) if missing == "voice" else replace(clip, n_frames=0)
