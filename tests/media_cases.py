"""Media files that went wrong once, small and quick to write."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = 48_000
Colour = tuple[int, int, int]


def write_media(
    path: Path,
    *,
    vcodec: str | None = "libx264",
    acodec: str | None = "aac",
    n: int = 30,
    fps: int = 15,
    size: tuple[int, int] = (160, 120),
    colours: Sequence[tuple[Colour, int]] | None = None,
    times: Sequence[int] | None = None,
    seconds: float = 2.0,
    silent: bool = False,
    layout: str = "mono",
    late: float = 0.0,
) -> Path:
    """Moving bars or colours, and a tone of 220 Hz that starts `late` seconds after the picture.

    `times` are the frames' in milliseconds; without, there are `fps` a second.
    """
    with av.open(str(path), "w") as out:
        video = sound = None
        if vcodec:
            video = out.add_stream(
                vcodec, rate=fps, options={} if times else {"preset": "ultrafast"}
            )
            video.width, video.height = size
            video.pix_fmt = "yuv420p"
            if times:
                video.codec_context.time_base = video.time_base = Fraction(1, 1000)
        if acodec:
            rate = 8000 if acodec == "pcm_mulaw" else RATE
            sound = out.add_stream(acodec, rate=rate, layout=layout)
        if video is not None:
            for i, frame in enumerate(_frames(n, size, colours)):
                if times:
                    frame.pts, frame.time_base = times[i], Fraction(1, 1000)
                out.mux(video.encode(frame))
            out.mux(video.encode())
        if sound is not None:
            _write_sound(out, sound, _tone(seconds, sound.codec_context.sample_rate, silent), late)
    return path


def damage_packet(path: Path, source: Path, numbers: Sequence[int] = (0,)) -> Path:
    """`source` with the bytes of some of its packets of sound turned to 0xff."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as clip:
        packets = [packet for packet in clip.demux(audio=0) if packet.size]
        for number in numbers:
            place, size = packets[number].pos, packets[number].size
            data[place : place + size] = b"\xff" * size
    path.write_bytes(data)
    return path


def variable_rate(path: Path) -> Path:
    """One second of red at 30 frames a second, then nine seconds of blue at one."""
    times = [round(i * 1000 / 30) for i in range(30)] + [1000 + 1000 * i for i in range(9)]
    colours = [((200, 20, 20), 30), ((20, 20, 200), 9)]
    return write_media(path, colours=colours, times=times, seconds=10.0)


def _frames(
    n: int, size: tuple[int, int], colours: Sequence[tuple[Colour, int]] | None
) -> Iterator[av.VideoFrame]:
    width, height = size
    if n == 1 and not colours:  # one grey frame, of any size in no time
        frame = av.VideoFrame(width, height, "yuv420p")
        for plane in frame.planes:
            plane.update(b"\x60" * plane.buffer_size)
        yield frame
        return
    shown = [c for colour, k in colours for c in [colour] * k] if colours else [(40, 90, 160)] * n
    for i, colour in enumerate(shown):
        picture = np.full((height, width, 3), colour, dtype=np.uint8)
        if not colours:
            picture[:, (4 * i) % width : (4 * i) % width + 16] = 230
        yield av.VideoFrame.from_ndarray(picture, format="rgb24")


def _tone(seconds: float, rate: int, silent: bool) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.3 * np.sin(2 * np.pi * 220 * t) * (not silent)
    return (wave * 32767).astype(np.int16)


def _write_sound(out, stream, tone: np.ndarray, late: float) -> None:
    layout, rate = stream.codec_context.layout, stream.codec_context.sample_rate
    for at in range(0, len(tone), 1024):
        piece = np.repeat(tone[at : at + 1024], layout.nb_channels)[None]
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(piece), format="s16", layout=layout.name
        )
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = at + round(late * rate)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())
