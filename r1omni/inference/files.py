"""Any media file as the towers take it, with notes on what was missing or cut.

The preprocessing is r1omni.media's, the same as in training. What training never meets is sound
without a picture: HumanOmni sees black frames, Qwen2.5-Omni is asked about the sound alone.
"""

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from r1omni.media import (
    Floats,
    Preparation,
    ReadClip,
    TowerInputs,
    UnreadableMedia,
    has_picture,
    probe,
    read_clip,
    read_sound_alone,
)

NO_AUDIO: Final = "no audio: the model heard silence"
DIGITAL_SILENCE: Final = "the sound is digital silence"
NO_VIDEO: Final = "no video: the model saw black frames"
ONE_COLOUR: Final = "every sampled frame has one colour: there is nothing to see"
SOUND_ALONE: Final = "no video: the model was asked about the sound alone"
PICTURE_ALONE: Final = "no audio: the model was asked about the picture alone"
TOO_SHORT: Final = "too little sound: the model was asked about the picture alone"
VISIBLE: Final = 0.05  # of normalised pixels: differences that compression leaves in darkness
NOTHING: Final = "has no picture, and too little sound: this model would be asked about nothing"


@dataclass(frozen=True)
class Refusal:
    """What was asked about and not answered, and why."""

    name: str
    reason: str

    def as_text(self) -> str:
        """The refusal on one line for people."""
        return f"{self.name}: refused: {self.reason}"

    def as_json(self) -> str:
        """The refusal as one line of JSON."""
        return json.dumps({"file": self.name, "refused": self.reason}, ensure_ascii=False)


@dataclass(frozen=True)
class ReadFile:
    """A file as the towers take it; `notes` say what was missing, cut or repeated.

    `waveform` (S,): its sound at 16 kHz, which the judges hear; None where nobody asked for it.
    """

    path: Path
    inputs: TowerInputs
    notes: tuple[str, ...]
    waveform: Floats | None = None


def read_file(path: Path, preparation: Preparation, max_pixels: int | None = None) -> ReadFile:
    """One file, preprocessed as in training. Raises UnreadableMedia, naming file and reason."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise UnreadableMedia(f"{path}: no such file") from error
    except OSError as error:
        raise UnreadableMedia(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise UnreadableMedia(f"{path}: is no regular file")
    notes = []
    if has_picture(path, max_pixels):
        probe(path, max_pixels)  # as strictly as ingestion
        clip = read_clip(path, preparation, max_pixels)
        if (clip.inputs.pixels == clip.inputs.pixels[:1]).all():
            notes.append("all sampled frames are the same picture")
        if _one_colour(clip.inputs.pixels):
            notes.append(ONE_COLOUR)
    else:
        clip = read_sound_alone(path, preparation)
        if not (clip.inputs.pixels.size or clip.inputs.mel.size):
            raise UnreadableMedia(f"{path}: {NOTHING}")
        notes.append(NO_VIDEO if len(clip.inputs.pixels) else SOUND_ALONE)
    return ReadFile(path, clip.inputs, (*notes, *_sound_notes(clip, preparation)))


def _one_colour(pixels: Floats) -> bool:
    """Whether no frame (F, 3, H, W) shows anything. Its edges may be padding of another colour."""
    top, left = pixels.shape[2] // 4, pixels.shape[3] // 4
    middle = pixels[:, :, top : pixels.shape[2] - top, left : pixels.shape[3] - left]
    return bool((middle.max(axis=(2, 3)) - middle.min(axis=(2, 3)) < VISIBLE).all())


def _sound_notes(clip: ReadClip, preparation: Preparation) -> Iterator[str]:
    sound = clip.sound
    if not sound.is_present:
        yield NO_AUDIO if clip.inputs.mel.size else PICTURE_ALONE
        return
    if not clip.inputs.mel.size:
        yield TOO_SHORT
        return
    if sound.digital_silence:
        yield DIGITAL_SILENCE
    if sound.n_lost:
        yield (
            f"{sound.n_lost} of {sound.n_packets} packets of sound could not be decoded: the model "
            "heard silence there"
        )
    if preparation.cuts(sound.seconds):
        heard = preparation.audio_seconds
        yield f"cut: the model heard the first {heard:g} of {sound.seconds:.1f} s of sound"
