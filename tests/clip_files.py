"""Real clip files of any kind, written through PyAV; signals to the processes that read them."""

from pathlib import Path

import av
import numpy as np
import psutil

from r1omni.limits import Limits

LIMITS = Limits(timeout_seconds=60.0, max_pixels=4096 * 2304, memory_mb=768)


def signal_decoding_process(number: int) -> None:
    """Send a signal to every process that the fork server of this one has forked."""
    own = psutil.Process()
    for child in own.children(recursive=True):
        if child.ppid() != own.pid:
            child.send_signal(number)


def write_clip(
    path: Path,
    *,
    seconds: float = 1.0,
    size: tuple[int, int] = (64, 64),
    audio: tuple[str, int, str] | None = ("aac", 16000, "mono"),
    video: bool = True,
    codec: str = "libx264",
    seed: int = 0,
    faststart: bool = False,
) -> Path:
    """A clip at 8 frames a second; frame i is a random picture, the sound a 440 Hz tone of 0.5.

    `size` is (width, height), `audio` codec, rate and layout.
    """
    rng = np.random.default_rng(seed)
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        picture = container.add_stream(codec, rate=8) if video else None
        sound = container.add_stream(audio[0], rate=audio[1], layout=audio[2]) if audio else None
        if picture is not None:
            picture.width, picture.height = size
            picture.pix_fmt = "yuv420p"
            for _ in range(round(seconds * 8)):
                pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(picture.encode(frame))
            container.mux(picture.encode())
        if sound is not None:
            _write_tone(container, sound, audio[1], audio[2], seconds)
    return path


def _write_tone(container, stream, rate: int, layout: str, seconds: float) -> None:
    n_channels = stream.codec_context.layout.nb_channels
    time = np.arange(round(seconds * rate)) / rate
    tone = (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    kind, dtype = ("fltp", np.float32) if stream.codec_context.name == "aac" else ("s16p", np.int16)
    tone = tone if dtype is np.float32 else (tone * 32767).astype(dtype)
    for start in range(0, len(tone), 1024):
        piece = np.ascontiguousarray(np.tile(tone[start : start + 1024], (n_channels, 1)))
        frame = av.AudioFrame.from_ndarray(piece, format=kind, layout=layout)
        frame.sample_rate, frame.pts = rate, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
