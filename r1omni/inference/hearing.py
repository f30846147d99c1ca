"""A file as the towers take it, and as the judges hear it. Decoding processes import this."""

from dataclasses import replace
from pathlib import Path

from r1omni.inference.files import ReadFile, read_file
from r1omni.judges.measuring import Hearing, hear_clip
from r1omni.media import Preparation


def read_and_hear(path: Path, preparation: Preparation, max_pixels: int) -> ReadFile:
    """The file with its waveform, as much as the model hears. Raises UnreadableMedia."""
    file = read_file(path, preparation, max_pixels)
    waveform = hear_clip(path, Hearing(preparation.audio_seconds), max_pixels)
    return replace(file, waveform=waveform)
