"""The report's smaller tables: gains, recall, calm, before and after GRPO, scenes, word sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r1omni.evaluation.metrics import CALM_POLICIES
from r1omni.evaluation.report.curves import Curve
from r1omni.evaluation.report.paper import ROWS, columns
from r1omni.evaluation.report.table1 import MISSING, calm_sentence, interval_name, rates_text
from r1omni.evaluation.results import CorpusMetrics, Metrics, WordScores

BEFORE, AFTER = "cold_start", "grpo"


@dataclass(frozen=True)
class TableCell:
    """A table cell: its text and its shade from 0 to 1 (None: not shaded); a loss is red."""

    text: str
    shade: float | None = None
    is_loss: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption; a row is a name and its cells."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[TableCell, ...]], ...]


def gains_table(metrics: Metrics) -> Table:
    """Each model's gain over another on the same clips, ± half its paired interval."""
    pairs = [
        (row.model, other)
        for row in ROWS
        for other in dict.fromkeys(
            o for m in metrics.get(row.model, {}).values() for o in m.gain_over
        )
    ]
    rows = tuple(
        (
            f"{other} → {model}",
            tuple(_gain(metrics[model].get(corpus), other) for corpus in columns(metrics)),
        )
        for model, other in pairs
    )
    caption = (
        f"Gain in WAR / UAR, points, ± half the paired {interval_name(metrics)} (one resampling of "
        "the clips serves both models). Shaded: the intervals of both exclude 0, green and ▲ for "
        "gains, red and ▼ for losses."
    )
    return Table(caption, ("step", *columns(metrics).values()), rows)


def recall_tables(metrics: Metrics) -> list[Table]:
    """Per corpus, the recall of every class for every model, in percent."""
    tables = []
    for corpus, name in columns(metrics).items():
        measured = [(m, metrics[m][corpus]) for m in _models(metrics) if corpus in metrics[m]]
        if measured:
            support = measured[0][1].confusion
            labels = support.rows
            rows = tuple(
                (model, tuple(_recall(found, label) for label in labels))
                for model, found in measured
            )
            counts = {r: sum(c) for r, c in zip(labels, support.counts, strict=True)}
            head = (name, *(f"{label} ({counts[label]})" for label in labels))
            tables.append(Table(f"Recall on {name}, percent; clips in brackets.", head, rows))
    return tables


def calm_tables(metrics: Metrics) -> list[Table]:
    """Each corpus that has calm as a class, under the three policies for it."""
    words = {"keep": "kept (Table 1)", "merge": "merged into neutral", "drop": "dropped"}
    caption = f"WAR / UAR in percent by the policy for calm. {calm_sentence(metrics)}".strip()
    tables = []
    for corpus, name in columns(metrics).items():
        found = [
            (model, calm)
            for model in _models(metrics)
            if (measured := metrics[model].get(corpus)) and (calm := measured.calm)
        ]
        if found:
            head = tuple(f"{words[policy]}, n {found[0][1][policy].n}" for policy in CALM_POLICIES)
            rows = tuple(
                (model, tuple(TableCell(rates_text(calm[policy])) for policy in CALM_POLICIES))
                for model, calm in found
            )
            tables.append(Table(caption, (name, *head), rows))
    return tables


def before_after_table(metrics: Metrics, grpo: Mapping[str, Curve]) -> Table:
    """Zero-variance groups, format rate and truth of the rationales, before and after GRPO."""
    rows: list[tuple[str, tuple[TableCell, ...]]] = []
    if (curve := grpo.get("rollout/zero_variance_groups")) is not None:
        label = "groups without reward variance (first and last tenth of the steps)"
        rows.append((label, (_percent(curve.start), _percent(curve.end))))
    for corpus, name in columns(metrics).items():
        pair = [metrics.get(model, {}).get(corpus) for model in (BEFORE, AFTER)]
        rows.append((f"format rate, {name}", tuple(_percent(_format(m)) for m in pair)))
    for corpus, name in columns(metrics).items():
        pair = [metrics.get(model, {}).get(corpus) for model in (BEFORE, AFTER)]
        if any(m and m.rationale_truth for m in pair):
            words = f"true statements in the rationales, face / voice, {name}"
            rows.append((words, tuple(_truth(m) for m in pair)))
    caption = (
        "Percent. Format rate and rationales are of the greedy answers to the test clips. A "
        "statement is true if the side file says that the clip was rendered so."
    )
    return Table(caption, ("", f"before ({BEFORE})", f"after ({AFTER})"), tuple(rows))


def scenes_table(metrics: Metrics) -> Table | None:
    """The share of clips on which a model follows the scene and not the label; None without any."""
    rows = []
    for model in _models(metrics):
        found = [metrics[model].get(corpus) for corpus in columns(metrics)]
        if any(m and m.follows_scene for m in found):
            rows.append((model, tuple(_scene(m) for m in found)))
    caption = (
        "Percent of clips on which the model answers the emotion of the background scene, among "
        "clips whose scene belongs to another emotion than the label; clips in brackets."
    )
    return Table(caption, ("model", *columns(metrics).values()), tuple(rows)) if rows else None


def words_table(metrics: Metrics) -> Table | None:
    """The answers as sets of emotion words; None for metrics that are older than these scores."""
    found = [
        (f"{model}, {name}", words)
        for corpus, name in columns(metrics).items()
        for model in _models(metrics)
        if (m := metrics[model].get(corpus)) and (words := m.words)
    ]
    if not found:
        return None
    caption = (
        "F of sets of emotion words in percent, by the groups of our table of emotion words; an "
        "unknown word counts as wrong. With one label a clip and one word an answer, F is the "
        "accuracy over merged classes. Size: words per answer. All twelve: the mean F of a model "
        "that always names all twelve labels."
    )
    head = (*found[0][1].groupings, "mean", "hit", "unknown words", "size", "all twelve")
    if wheels := any(words.affectgpt for _, words in found):
        head += ("AffectGPT's rules and wheels",)
    rows = tuple((name, _word_cells(words, wheels)) for name, words in found)
    return Table(caption, ("answers as words", *head), rows)


def _word_cells(words: WordScores, wheels: bool) -> tuple[TableCell, ...]:
    scores = list(words.groupings.values())
    hit = sum(score.hit for score in scores) / len(scores)
    cells = [*(_percent(score.f) for score in scores), _percent(words.f), _percent(hit)]
    cells += [_percent(words.oov_rate), TableCell(f"{words.set_size:.2f}")]
    cells.append(_percent(words.baselines.get("all twelve")))
    if wheels:
        by_wheel = [score.f for score in (words.affectgpt or {}).values()]
        cells.append(_percent(sum(by_wheel) / len(by_wheel) if by_wheel else None))
    return tuple(cells)


def _models(metrics: Metrics) -> Sequence[str]:
    known = [row.model for row in ROWS if row.model in metrics]
    return known + sorted(set(metrics) - set(known))


def _percent(value: float | None) -> TableCell:
    return TableCell(MISSING if value is None else f"{100 * value:.1f}")


def _format(measured: CorpusMetrics | None) -> float | None:
    return None if measured is None else measured.format_rate


def _gain(measured: CorpusMetrics | None, other: str) -> TableCell:
    if measured is None or other not in measured.gain_over:
        return TableCell(MISSING)
    gain = measured.gain_over[other]
    war = f"{100 * gain.war:+.1f} ± {100 * gain.war_half_width:.1f}"
    uar = f"{100 * gain.uar:+.1f} ± {100 * gain.uar_half_width:.1f}"
    if gain.direction is None:
        return TableCell(f"{war} / {uar}")
    is_loss = gain.direction == "loss"
    return TableCell(f"{war} / {uar} {'▼' if is_loss else '▲'}", 0.5, is_loss)


def _recall(measured: CorpusMetrics, label: str) -> TableCell:
    recall = measured.recall.get(label)
    return TableCell(MISSING if recall is None else f"{100 * recall:.0f}", recall)


def _truth(measured: CorpusMetrics | None) -> TableCell:
    truth = measured.rationale_truth if measured else None
    if truth is None:
        return TableCell(MISSING)
    sides = " / ".join(_percent(side).text for side in (truth.face, truth.voice))
    return TableCell(f"{sides} of {truth.n_statements}")


def _scene(measured: CorpusMetrics | None) -> TableCell:
    follows = measured.follows_scene if measured else None
    return (
        TableCell(MISSING)
        if follows is None
        else TableCell(f"{100 * follows.share:.1f} ({follows.n})")
    )
