"""The picture of every clip: how much its picture and its sound speak for the model's answer."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Final

from markupsafe import Markup, escape

from r1omni.emotions import EMOTIONS, in_order
from r1omni.evaluation.audit_results import AuditedClip
from r1omni.evaluation.report.audited import Audited, Panel, Picture, before_and_after
from r1omni.evaluation.report.charts import WIDTH, dot, element, picture, text
from r1omni.evaluation.report.table1 import MISSING
from r1omni.evaluation.report.tables import Table, TableCell

SIZE: Final[int] = 330  # of the square, in units of the view box
LEFT: Final[int] = 36
LETTER: Final[float] = 6.2  # a letter's width
LOW, HIGH = 0.02, 0.98  # quantiles of phi between which the axes reach; others stand at the edge

Point = tuple[float, float]  # (phi_video, phi_audio) in nats


def per_clip(audits: Sequence[Audited], cards: Mapping[str, str]) -> Picture:
    """One dot for each clip of the last model, and each emotion's mean before and after GRPO.

    `cards`: clip id -> the id of its card on the page, to which its dot leads.
    """
    having = [audit for audit in audits if any(map(_point, audit.clips))]
    models = before_and_after(having) or having[-1:]
    title = "Every clip: does its picture or its sound decide?"
    table = _means_table(models)
    if not models:
        note = "Not measured: no audited clip has phi_video and phi_audio."
        return Picture("per-clip", title, note, (), table)
    shown, first = models[-1], models[0]
    heard = _share_heard(shown.clips)
    title = f"The sound decides more than the picture in {100 * heard:.0f} % of the clips"
    note = (
        f"A dot is a clip: how much picture and sound speak for the answer of {shown.said}, in "
        "nats. Above the line the sound decides. Hover over a dot to see its clip; a "
        "dot with a rim leads to its card."
    )
    if first is not shown:
        note += (
            f" The second drawing has each emotion's mean: a line leads from {first.said}'s to the "
            f"dot, {shown.said}'s."
        )
    panels = (
        Panel(_all_clips(shown, cards), f"{shown.name}: every clip"),
        Panel(_all_means(_moves(first, shown)), "The emotions' means"),
    )
    return Picture("per-clip", title, note, panels, table)


def _all_clips(audit: Audited, cards: Mapping[str, str]) -> Markup:
    points = [(clip, point) for clip in audit.clips if (point := _point(clip))]
    at, parts = _axes([point for _, point in points])
    for clip, point in points:
        about = (
            f"{clip.clip_id}: {clip.label}, answered {clip.prediction or 'nothing known'}; "
            f"picture {point[0]:+.2f}, sound {point[1]:+.2f} nats"
        )
        drawn = dot(*at(point), 3, f"clip {tone(clip.label)}", about, _value(point))
        card = cards.get(clip.clip_id)
        parts.append(drawn if card is None else element("a", drawn, href=f"#{card}"))
    label = f"Every clip of {audit.name}: what its picture and its sound add to the answer"
    return picture(parts, SIZE + 42, label, role="group")


def _all_means(moves: Mapping[str, tuple[Point, Point]]) -> Markup:
    at, parts = _axes([point for pair in moves.values() for point in pair])
    heights = _spread({emotion: at(pair[1])[1] for emotion, pair in moves.items()})
    for emotion, (start, end) in moves.items():
        (x0, y0), (x1, y1) = at(start), at(end)
        parts.append(element("line", x1=x0, y1=y0, x2=x1, y2=y1, class_=f"span {tone(emotion)}"))
        about = f"{emotion}: picture {end[0]:+.2f}, sound {end[1]:+.2f} nats"
        parts.append(dot(x1, y1, 5, tone(emotion), about, _value(end)))
        fits = x1 + 8 + LETTER * len(emotion) < WIDTH
        away, anchor = (8, "start") if fits else (-8, "end")
        parts.append(text(x1 + away, heights[emotion] + 4, emotion, "name", anchor))
    label = "Each emotion's mean: what picture and sound add to the answer"
    return picture(parts, SIZE + 42, label)


def _axes(points: Sequence[Point]) -> tuple[Callable[[Point], Point], list[Markup]]:
    """The place of a point on the page, and the axes' elements."""
    low, high = _reach([value for point in points for value in point])

    def at(point: Point) -> Point:
        x, y = ((min(max(v, low), high) - low) / (high - low) * SIZE for v in point)
        return LEFT + x, 8 + SIZE - y

    (x0, y0), (x1, y1), (zero_x, zero_y) = at((low, low)), at((high, high)), at((0.0, 0.0))
    side = f"translate({x0 - 18:g} {(y0 + y1) / 2:g}) rotate(-90)"
    sideways = escape("the sound speaks for the answer →")
    return at, [
        element("line", x1=x0, y1=y0, x2=x1, y2=y1, class_="rule"),
        element("line", x1=zero_x, x2=zero_x, y1=y0, y2=y1, class_="grid"),
        element("line", x1=x0, x2=x1, y1=zero_y, y2=zero_y, class_="grid"),
        text((x0 + x1) / 2, y0 + 26, "the picture speaks for the answer →", "soft", "middle"),
        element("text", sideways, class_="soft", text_anchor="middle", transform=side),
        text(x0 + 6, y1 + 12, "the sound decides", "soft"),
        text(x1 - 4, y0 - 6, "the picture decides", "soft", "end"),
    ]


def _value(point: Point) -> str:
    return f"{point[0]:.4g} {point[1]:.4g}"


def tone(emotion: str) -> str:
    """The CSS class of an emotion's colour."""
    return f"e-{emotion}" if emotion in EMOTIONS else "e-other"


def _moves(first: Audited, shown: Audited) -> dict[str, tuple[Point, Point]]:
    """Each emotion's means in the two audits, for emotions that both have."""
    before, after = _means(first.clips), _means(shown.clips)
    return {label: (before[label][0], after[label][0]) for label in after if label in before}


def _means(clips: Sequence[AuditedClip]) -> dict[str, tuple[Point, int]]:
    """Each emotion's mean point and its number of clips."""
    means = {}
    for label in in_order(clip.label for clip in clips):
        found = [point for clip in clips if clip.label == label and (point := _point(clip))]
        if found:
            mean = (fmean(x for x, _ in found), fmean(y for _, y in found))
            means[label] = (mean, len(found))
    return means


def _means_table(models: Sequence[Audited]) -> Table:
    by_model = [(audit.name, _means(audit.clips)) for audit in models]
    labels = in_order(label for _, means in by_model for label in means)
    rows = tuple(
        (label, tuple(_mean_cell(means.get(label)) for _, means in by_model)) for label in labels
    )
    caption = "Mean nats that picture / sound add to the answer's log probability; clips."
    return Table(caption, ("emotion", *(name for name, _ in by_model)), rows)


def _mean_cell(found: tuple[Point, int] | None) -> TableCell:
    if found is None:
        return TableCell(MISSING)
    (video, audio), n = found
    return TableCell(f"{video:+.2f} / {audio:+.2f} n {n}")


def _share_heard(clips: Sequence[AuditedClip]) -> float:
    points = [point for clip in clips if (point := _point(clip))]
    return fmean(abs(audio) > abs(video) for video, audio in points)


def _point(clip: AuditedClip) -> Point | None:
    if clip.phi_video is None or clip.phi_audio is None:
        return None
    return clip.phi_video, clip.phi_audio


def _reach(values: Sequence[float]) -> Point:
    """The axes' ends: nearly all values, with 0 and some room."""
    ordered = sorted(values)
    low = min(ordered[int(LOW * (len(ordered) - 1))], 0.0)
    high = max(ordered[round(HIGH * (len(ordered) - 1))], 0.0)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _spread(heights: Mapping[str, float], least: float = 12.0) -> dict[str, float]:
    """Heights of labels, moved down where two would be less than `least` apart."""
    placed: dict[str, float] = {}
    below = float("-inf")
    for name in sorted(heights, key=lambda name: heights[name]):
        placed[name] = below = max(heights[name], below + least)
    return placed
