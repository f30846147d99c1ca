"""A clip as pictures for its card: a contact sheet, and its sound with loudness and pitch."""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from markupsafe import Markup
from PIL import Image

from r1omni.evaluation.report.charts import WIDTH, element, picture, text
from r1omni.evaluation.report.plots import WEBP_QUALITY
from r1omni.judges.acoustics import HIGHEST_HZ, LOWEST_HZ, Tracks

if TYPE_CHECKING:
    from r1omni.media import Floats, Frames

COLUMNS: Final = 4  # frames side by side
LEFT: Final = 44.0  # the axes' names
WAVE, PITCH = (4.0, 58.0), (68.0, 106.0)  # from top to bottom
QUIET: Final = -60.0  # dB of full scale, the bottom of the loudness
STEPS: Final = 120  # of a track, at most

Point = tuple[float, float]


def contact_sheet(frames: "Frames") -> str:
    """The frames (F, H, W, 3) side by side as a WebP's data URI, COLUMNS in a row."""
    n, height, width, _ = frames.shape
    columns = min(n, COLUMNS)
    sheet = np.zeros((-(-n // columns) * height, columns * width, 3), dtype=np.uint8)
    for i, frame in enumerate(frames):
        top, left = i // columns * height, i % columns * width
        sheet[top : top + height, left : left + width] = frame
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="WEBP", quality=WEBP_QUALITY, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def sound_picture(waveform: "Floats", rate: int) -> Markup:
    """The waveform (S,), scaled to its peak, with its loudness above it, and the pitch below."""
    tracks = Tracks(waveform, rate)
    seconds = len(waveform) / rate
    step = max(1, -(-len(tracks.times) // STEPS))
    at = [_x(time / seconds) for time in tracks.times[::step]]
    loud = [_y(1 - level / QUIET, WAVE) for level in tracks.level[::step]]
    octaves = np.log2(HIGHEST_HZ / LOWEST_HZ)
    heights = np.log2(tracks.pitch[::step] / LOWEST_HZ) / octaves
    pitch = [_y(height, PITCH) for height in heights]
    parts = [
        element("path", d=_wave(waveform), class_="wave"),
        element("path", d=_path(list(zip(at, loud, strict=True))), class_="track loud"),
        element("path", d=_path(list(zip(at, pitch, strict=True))), class_="track pitch"),
        text(LEFT - 6, WAVE[0] + 8, "0 dB", "soft", "end"),
        text(LEFT - 6, WAVE[1], f"{QUIET:.0f} dB", "soft", "end"),
        text(LEFT - 6, PITCH[0] + 8, f"{HIGHEST_HZ:.0f} Hz", "soft", "end"),
        text(LEFT - 6, PITCH[1], f"{LOWEST_HZ:.0f} Hz", "soft", "end"),
        text(LEFT, PITCH[1] + 15, "waveform", "soft", "start"),
        text(LEFT + 58, PITCH[1] + 15, "loudness", "loud-name", "start"),
        text(LEFT + 116, PITCH[1] + 15, "pitch", "pitch-name", "start"),
        text(WIDTH, PITCH[1] + 15, f"{seconds:.1f} s", "soft", "end"),
    ]
    return picture(parts, PITCH[1] + 20, f"{seconds:.1f} s of sound: waveform, loudness, pitch")


def _wave(waveform: "Floats") -> str:
    """The outline of the waveform: its highest values, then its lowest ones back."""
    peak = max(float(np.abs(waveform).max()), 1e-6)
    pieces = np.array_split(waveform, min(STEPS, len(waveform)))
    at = [_x((i + 0.5) / len(pieces)) for i in range(len(pieces))]
    top = [_y(0.5 + float(piece.max()) / peak / 2, WAVE) for piece in pieces]
    bottom = [_y(0.5 + float(piece.min()) / peak / 2, WAVE) for piece in pieces]
    outline = [*zip(at, top, strict=True), *reversed(list(zip(at, bottom, strict=True)))]
    return f"{_path(outline)}Z"


def _path(points: Sequence[Point]) -> str:
    """The lines through the points; one without a height (NaN) breaks the line."""
    return "".join(
        "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in run) + ("h0" if len(run) == 1 else "")
        for run in _runs(points)
    )


def _runs(points: Sequence[Point]) -> Iterator[list[Point]]:
    run: list[Point] = []
    for point in points:
        if np.isfinite(point[1]):
            run.append(point)
        elif run:
            yield run
            run = []
    if run:
        yield run


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT)


def _y(share: float, band: tuple[float, float]) -> float:
    """A height in a band: 0 is its bottom; what lies outside stands at its edge."""
    top, bottom = band
    return float(bottom - np.clip(share, 0.0, 1.0) * (bottom - top))
