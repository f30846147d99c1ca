"""The clips of the report's cards: the frames that a model sees, the sound that it hears."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from r1omni.config import CorpusParams
from r1omni.corpora.clip import read_manifest
from r1omni.corpora.sets import Member
from r1omni.judges.measuring import Hearing, source_of
from r1omni.limits import Limits
from r1omni.media import Floats, Frames, file_of
from r1omni.media.pool import Undecoded, decode_clips
from r1omni.model_config import MediaParams

MAX_HEIGHT: Final = 96  # pixels of a frame on a card; a smaller one stays as it is


@dataclass(frozen=True)
class Showing(Hearing):
    """A `Preparation` whose pixels are the sampled frames, made small, and whose sound is heard."""

    def frames_to_pixels(self, frames: Frames) -> Floats:
        """Frames uint8 (F, H, W, 3) -> the same as float32, at most MAX_HEIGHT high."""
        height, width = frames.shape[1:3]
        scale = min(1.0, MAX_HEIGHT / height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = [Image.fromarray(f).resize(size, Image.Resampling.LANCZOS) for f in frames]
        return np.stack([np.asarray(image) for image in small]).astype(np.float32)


@dataclass(frozen=True)
class ShownClip:
    """A clip's sampled frames uint8 (F, H, W, 3) and its waveform (S,), empty without sound."""

    frames: Frames
    waveform: Floats


@dataclass(frozen=True)
class Clips:
    """Where the test clips lie, and how they are read."""

    tested: tuple[Member, ...]
    corpora: Mapping[str, CorpusParams]
    media: MediaParams
    workers: int
    limits: Limits

    def read(self, wanted: Collection[str]) -> dict[str, ShownClip | str]:
        """Clip id -> the clip, or why it cannot be shown: its file may be gone by now."""
        found: dict[str, ShownClip | str] = dict.fromkeys(wanted, "no test set has this clip")
        sources = {}
        for manifest in sorted({member.manifest for member in self.tested}):
            root = self.corpora[manifest.stem].root
            for clip in read_manifest(manifest):
                if clip.clip_id in wanted:
                    source = source_of(manifest, root, clip)
                    if file_of(source).is_file():
                        sources[clip.clip_id] = source
                    else:
                        found[clip.clip_id] = "its file is gone"
        media = self.media
        showing = Showing(media.audio_seconds, media.num_frames, media.sampling)
        decoded = decode_clips(list(sources.values()), showing, self.workers, self.limits)
        for id, inputs in zip(sources, decoded, strict=True):
            if isinstance(inputs, Undecoded):
                found[id] = inputs.reason
            else:
                found[id] = ShownClip(inputs.pixels.round().astype(np.uint8), inputs.mel)
        return found
