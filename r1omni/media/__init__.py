"""Clip file -> frames and waveform -> pixels and log-mel. Only here decord is imported.

decord reads the frames (bit-identical to PyAV's, and it seeks exactly). PyAV reads large frames,
videos that decord cannot read, and audio, because decord's AudioReader leaks and lags by 1 ms.
Ingestion, the feature cache, the processor and `predict` all use this package, so training and
inference see the same tensors. Shapes: `F` frames, `H` x `W` pixels, `S` audio samples, `M` mel
bins, `T` mel frames.
"""

import hashlib
from functools import cache
from pathlib import Path

from r1omni.media.clips import (
    Media,
    Probe,
    ReadClip,
    decode,
    has_picture,
    preprocess,
    probe,
    read_clip,
    read_sound_alone,
)
from r1omni.media.containers import COMPLETE, UnreadableMedia
from r1omni.media.inputs import (
    Floats,
    Frames,
    MediaSettings,
    Preparation,
    Sampling,
    TowerInputs,
    frames_to_pixels,
    log_mel,
    pad_to_square,
    waveform_to_mel,
)
from r1omni.media.pictures import sample_frame_indices, sample_frame_times
from r1omni.media.qwen_omni import QwenMedia
from r1omni.media.segments import Segment, Source, file_of, probe_segment, read_segment
from r1omni.media.sound import Sound

__all__ = [
    "COMPLETE",
    "Floats",
    "Frames",
    "Media",
    "MediaSettings",
    "Preparation",
    "Probe",
    "QwenMedia",
    "ReadClip",
    "Sampling",
    "Segment",
    "Sound",
    "Source",
    "TowerInputs",
    "UnreadableMedia",
    "code_hash",
    "decode",
    "file_of",
    "frames_to_pixels",
    "has_picture",
    "log_mel",
    "pad_to_square",
    "preprocess",
    "probe",
    "probe_segment",
    "read_clip",
    "read_segment",
    "read_sound_alone",
    "sample_frame_indices",
    "sample_frame_times",
    "waveform_to_mel",
]


@cache
def code_hash() -> str:
    """A hash of this package's code: clips that other code decoded are decoded again."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
