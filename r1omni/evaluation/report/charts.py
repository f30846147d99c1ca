"""Charts as inline SVG: the text can be selected, the colours follow the page's variables.

A row chart has one row for each name and marks on an axis from 0 to 100 %. Every mark carries its
value in `data-value`. Widths are in units of the view box, which is about as wide as a phone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from markupsafe import Markup, escape

WIDTH: Final[int] = 396
LEFT: Final[int] = 114  # the rows' names
RIGHT: Final[int] = 52  # a value's text beside a mark at 100 %
LANE: Final[int] = 15
GAP: Final[int] = 9

Shape = Literal["bar", "dot", "ring", "tick", "span"]


@dataclass(frozen=True)
class Mark:
    """A mark at `at`, or from `at` to `to` (bar and span), as fractions; `tone` is a CSS class.

    `text` stands right of it, in a bar inside of it; `about` is shown on hover.
    """

    shape: Shape
    at: float
    to: float = 0.0
    tone: str = "plain"
    text: str = ""
    about: str = ""
    lane: int = 0


@dataclass(frozen=True)
class Row:
    """A named row; its marks lie in lanes below each other."""

    name: str
    marks: tuple[Mark, ...]
    lanes: int = 1


@dataclass(frozen=True)
class Line:
    """A vertical line through all rows, with its name above."""

    at: float
    name: str


@dataclass(frozen=True)
class Curve:
    """A line through (x, y) points in [0, 1]; `tone` is a CSS class, `name` is shown on hover."""

    points: tuple[tuple[float, float], ...]
    tone: str
    name: str
    is_dashed: bool = False


def element(tag: str, content: Markup | str = "", **attributes: object) -> Markup:
    """An element with escaped attributes; `_` in their names stands for `-`."""
    shown = Markup("").join(
        Markup(' {}="{}"').format(Markup(name.rstrip("_").replace("_", "-")), _short(value))
        for name, value in attributes.items()
        if value not in ("", None)
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(tag), shown, content)


def picture(parts: Sequence[Markup], height: float, label: str, role: str = "img") -> Markup:
    """The SVG of some elements; `label` describes it to a screen reader."""
    box = f"0 0 {WIDTH} {height:g}"
    return element("svg", Markup("").join(parts), class_="chart", viewBox=box, role=role,
                   aria_label=label)  # fmt: skip


def row_chart(
    rows: Sequence[Row], label: str, lines: Sequence[Line] = (), ends: tuple[str, str] = ("", "")
) -> Markup:
    """A row chart. `ends` name the two ends of the axis."""
    top = 18.0 if lines else 6.0
    parts: list[Markup] = []
    bottom = top + sum(row.lanes * LANE + GAP for row in rows)
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(element("line", x1=_x(tick), x2=_x(tick), y1=top, y2=bottom, class_="grid"))
        parts.append(_text(_x(tick), bottom + 13, f"{100 * tick:.0f} %", "soft", "middle"))
    for line in lines:
        parts.append(element("line", x1=_x(line.at), x2=_x(line.at), y1=top - 3, y2=bottom,
                             class_="rule", data_value=line.at))  # fmt: skip
        anchor = "end" if line.at > 0.6 else "start" if line.at < 0.4 else "middle"
        parts.append(_text(_x(line.at), top - 7, line.name, "soft", anchor))
    y = top
    for row in rows:
        height = row.lanes * LANE + GAP
        parts.append(_text(LEFT - 9, y + height / 2 + 4, row.name, "name", "end"))
        for mark in row.marks:
            parts.append(_mark(mark, y + GAP / 2 + (mark.lane + 0.5) * LANE))
        y += height
    if any(ends):
        parts.append(_text(_x(0), bottom + 26, ends[0], "soft", "start"))
        parts.append(_text(_x(1), bottom + 26, ends[1], "soft", "end"))
    return picture(parts, bottom + (32 if any(ends) else 19), label)


def curve_chart(curves: Sequence[Curve], label: str, axes: tuple[str, str]) -> Markup:
    """Lines over an axis from 0 to 100 %, upwards from the tick below the lowest value.

    `axes` names the horizontal axis and the vertical one.
    """
    lowest = min(y for curve in curves for _, y in curve.points)
    step = 0.1 if lowest >= 0.5 else 0.2
    floor = min(step * int(lowest / step), 1 - step)
    left, top, bottom = 44.0, 18.0, 168.0

    def x_of(share: float) -> float:
        return left + share * (WIDTH - left - 12)

    def y_of(share: float) -> float:
        return bottom - (share - floor) / (1 - floor) * (bottom - top)

    parts = [text(left, top - 7, axes[1], "soft")]
    for i in range(round((1 - floor) / step) + 1):
        level = 1 - i * step
        parts.append(element("line", x1=left, x2=x_of(1), y1=y_of(level), y2=y_of(level),
                             class_="grid"))  # fmt: skip
        parts.append(text(left - 6, y_of(level) + 4, f"{100 * level:.0f} %", "soft", "end"))
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(text(x_of(tick), bottom + 14, f"{100 * tick:.0f} %", "soft", "middle"))
    parts.append(text(x_of(1), bottom + 28, axes[0], "soft", "end"))
    for curve in curves:
        kind = f"curve {curve.tone}{' dashed' if curve.is_dashed else ''}"
        path = "M" + "L".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in curve.points)
        parts.append(element("path", element("title", curve.name), d=path, class_=kind,
                             data_value=curve.points[-1][1]))  # fmt: skip
    return picture(parts, bottom + 34, label)


def tile(x: float, y: float, width: float, height: float, share: float, texts: Sequence[str]
         ) -> Markup:  # fmt: skip
    """A tile of a heat map, shaded by `share`, with its texts below each other."""
    parts = [
        element("rect", x=x, y=y, width=width, height=height, rx=4, class_="tile",
                style=f"--share: {share:.3f}", data_value=share)
    ]  # fmt: skip
    middle = y + height / 2 - 8 * (len(texts) - 1)
    for i, text in enumerate(texts):
        kind = "big" if i == 0 else ""
        parts.append(_text(x + width / 2, middle + 5 + 15 * i, text, kind, "middle"))
    return Markup("").join(parts)


def dot(x: float, y: float, radius: float, tone: str, about: str, value: str) -> Markup:
    """A circle with a text that is shown on hover."""
    return element("circle", element("title", about), cx=x, cy=y, r=radius, class_=tone,
                   data_value=value)  # fmt: skip


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> Markup:
    """A text at a place; `kind` is a CSS class."""
    return _text(x, y, words, kind, anchor)


def _mark(mark: Mark, y: float) -> Markup:
    x, half = _x(mark.at), LANE / 2 - 2
    about = element("title", mark.about) if mark.about else Markup("")
    if mark.shape == "bar":
        width = max(_x(mark.to) - x, 0.6)
        drawn = element("rect", about, x=x, y=y - half, width=width, height=2 * half, rx=1.5,
                        class_=mark.tone, data_value=mark.to - mark.at)  # fmt: skip
    elif mark.shape == "span":
        drawn = element("line", about, x1=x, x2=_x(mark.to), y1=y, y2=y, class_=f"span {mark.tone}")
    elif mark.shape == "tick":
        drawn = element("line", about, x1=x, x2=x, y1=y - half - 2, y2=y + half + 2,
                        class_=f"tick {mark.tone}", data_value=mark.at)  # fmt: skip
    else:
        kind = f"ring {mark.tone}" if mark.shape == "ring" else mark.tone
        drawn = element("circle", about, cx=x, cy=y, r=4.5, class_=kind, data_value=mark.at)
    if not mark.text:
        return drawn
    end = _x(max(mark.at, mark.to)) + 8
    return drawn + _text(end, y + 4, mark.text, "value", "start")


def _text(x: float, y: float, words: str, kind: str, anchor: str) -> Markup:
    return element("text", escape(words), x=x, y=y, class_=kind, text_anchor=anchor)


def _x(share: float) -> float:
    return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT)


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
