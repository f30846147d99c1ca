"""A contact sheet: a few clips of each emotion at their apex, for people."""

import os
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from r1omni.corpora.synthetic.plans import Planned
from r1omni.emotions import EMOTIONS

_CELL = 96  # pixels a side
_MARGIN = 128  # pixels for the emotion's name


def write_sheet(planned: Sequence[Planned], root: Path, path: Path, *, columns: int) -> None:
    """Write a PNG with a row per emotion and `columns` clips in it, spread over the corpus."""
    rows = []
    for emotion in EMOTIONS:
        clips = [p for p in planned if p.clip_id and p.latent.emotion == emotion]
        shown = clips[:: max(1, len(clips) // columns)][:columns]  # not all of the same person
        if shown:
            rows.append((emotion, [_apex(root / clip.path) for clip in shown]))
    sheet = Image.new("RGB", (_MARGIN + columns * _CELL, max(1, len(rows)) * _CELL), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(16)
    for i, (emotion, pictures) in enumerate(rows):
        pen.text((8, (i + 0.5) * _CELL), emotion, fill="black", font=font, anchor="lm")
        for j, picture in enumerate(pictures):
            sheet.paste(picture.resize((_CELL, _CELL)), (_MARGIN + j * _CELL, i * _CELL))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    sheet.save(partial, format="PNG")
    partial.replace(path)


def _apex(path: Path) -> Image.Image:
    """The frame after three quarters of the clip: expressions rise early and hold."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return Image.fromarray(np.asarray(frames[len(frames) * 3 // 4]))
