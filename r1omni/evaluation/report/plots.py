"""PNG plots as data URIs: the page is one file, and equal numbers give equal bytes."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from r1omni.evaluation.metrics import NONE
from r1omni.evaluation.report.curves import Curve
from r1omni.evaluation.report.paper import CORPORA, ROWS, columns, title
from r1omni.evaluation.report.table1 import interval_name
from r1omni.evaluation.results import CorpusMetrics, Metrics

DPI: Final[int] = 144
WEBP_QUALITY: Final[int] = 60
INK: Final[str] = "#24292f"
GRID: Final[str] = "#e3e6ea"
COLOURS: Final[Mapping[str, str]] = {
    "base": "#9aa4b1", "cold_start": "#d9a441", "label_sft": "#5b8bb5", "grpo": "#2f7d5b",
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """An image for the page: its data URI, alternative text and caption."""

    src: str
    alt: str
    caption: str


def png_uri(png: bytes) -> str:
    """The data URI of a PNG file's bytes."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def webp_uri(path: Path) -> str:
    """The data URI of an image file, made small as WebP: a contact sheet has megabytes as PNG.

    Raises ValueError, naming the file, if it is no image.
    """
    buffer = io.BytesIO()
    try:
        with Image.open(path) as image:
            image.convert("RGB").save(buffer, format="WEBP", quality=WEBP_QUALITY, method=6)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image; expected a contact sheet") from error
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def war_bars(metrics: Metrics) -> Plot:
    """WAR of every model on every corpus with its interval; a dash marks the paper's number."""
    figure, axes = _figure(7.2, 3.2)
    width = 0.8 / len(ROWS)
    corpora = columns(metrics)
    values = []
    for m, row in enumerate(ROWS):
        for c, corpus in enumerate(corpora):
            x = c + (m - (len(ROWS) - 1) / 2) * width
            if corpus in row.paper:
                axes.hlines(row.paper[corpus][0], x - width / 2, x + width / 2, color=INK, lw=1.2,
                            linestyles=(0, (2, 1.5)), zorder=4)  # fmt: skip
            measured = metrics.get(row.model, {}).get(corpus)
            if measured is None:
                continue
            war = 100 * measured.war
            low, high = (100 * end for end in measured.war_ci)
            error_bar = [[max(war - low, 0)], [max(high - war, 0)]]
            axes.bar(x, war, width * 0.92, color=COLOURS[row.model], zorder=2)
            axes.errorbar(x, war, error_bar, color=INK, capsize=2.5, lw=1, zorder=3)
            values.append(f"{row.model} on {corpora[corpus]} {war:.1f}")
    for row in ROWS:
        axes.bar(0, 0, color=COLOURS[row.model], label=f"{row.model} ({row.name})")
    axes.plot([], [], color=INK, lw=1.2, linestyle=(0, (2, 1.5)), label="the paper's, same row")
    axes.set_xticks(range(len(corpora)), list(corpora.values()))
    axes.set_ylabel("WAR, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, fontsize=7.5, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0))
    interval = interval_name(metrics)
    caption = f"WAR with its {interval}; dashes are the paper's numbers on the real corpora."
    return Plot(_png(figure), f"Bars of WAR in percent: {', '.join(values)}.", caption)


def confusion_plot(model: str, corpus: str, measured: CorpusMetrics) -> Plot:
    """A model's confusion matrix on a corpus: counts, shaded by the share of the true class."""
    counts = np.array(measured.confusion.counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = 1.3 + 0.33 * len(measured.confusion.columns)
    figure, axes = _figure(size + 0.5, size)
    axes.grid(False)
    axes.imshow(shares, cmap="Greens", vmin=0, vmax=1, aspect="auto")
    for (i, j), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[i, j] > 0.6 else INK
            axes.text(j, i, str(count), ha="center", va="center", fontsize=7, color=colour)
    columns = measured.confusion.columns
    axes.set_xticks(range(len(columns)), columns, rotation=55, ha="right", fontsize=7.5)
    axes.set_yticks(range(len(counts)), measured.confusion.rows, fontsize=7.5)
    axes.axvline(len(counts) - 0.5, color=INK, lw=0.8)
    axes.set_xlabel("answered", fontsize=8)
    axes.set_ylabel("label", fontsize=8)
    name = f"{title(model)} on {CORPORA.get(corpus, corpus)}"
    right = int(np.trace(counts))
    none = int(counts[:, columns.index(NONE)].sum())
    alt = (
        f"Confusion matrix of {name}: {right} of {counts.sum()} clips right, "
        f"{none} answers name none of the classes."
    )
    return Plot(_png(figure), alt, f"{title(model)} ({model})")


def curve_plot(curve: Curve, name: str, colour: str = COLOURS["grpo"]) -> Plot:
    """One curve over its steps: every step faint, the running mean strong."""
    figure, axes = _figure(3.6, 2.1)
    axes.plot(curve.steps, curve.values, color=colour, alpha=0.28, lw=0.8)
    axes.plot(curve.steps, curve.smooth, color=colour, lw=1.8)
    axes.set_xlabel("step", fontsize=8)
    axes.margins(x=0.01)
    low, high = float(curve.values.min()), float(curve.values.max())
    alt = (
        f"{curve.key} over {int(curve.steps[-1])} steps: from {curve.start:.3g} (mean of the first "
        f"tenth) to {curve.end:.3g} (last tenth), between {low:.3g} and {high:.3g}."
    )
    return Plot(_png(figure), alt, name)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, lw=0.7)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(INK)
    return figure, axes


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return png_uri(buffer.getvalue())
