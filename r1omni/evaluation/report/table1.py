"""Table 1 with intervals, beside the paper's, as Markdown, HTML and terminal text."""

import textwrap
from dataclasses import dataclass

from r1omni.evaluation.metrics import half_width
from r1omni.evaluation.report.labels import (
    PAPER,
    PAPER_DATA,
    caption,
    corpus_lines,
    mark,
    marked,
    short_caption,
)
from r1omni.evaluation.report.paper import CORPORA, PAPER_HALF_WIDTHS, ROWS, SOURCE, columns
from r1omni.evaluation.report.templates import render
from r1omni.evaluation.results import CorpusMetrics, Metrics, Rates

WIDTH = 100  # columns of a terminal
MISSING = "–"  # noqa: RUF001


@dataclass(frozen=True)
class Cell:
    """One model on one corpus: our rates and the paper's, in percent, as text."""

    ours: str
    paper: str
    n: str
    format_rate: str


@dataclass(frozen=True)
class TableRow:
    """One model's cells: the paper's corpora in its order, then others that were measured."""

    name: str
    model: str
    cells: tuple[Cell, ...]


def table1(metrics: Metrics) -> list[TableRow]:
    """The paper's four rows with our numbers; a dash means not measured.

    Below each model that reasons stands the reader, who answers from that model's rationales alone,
    and the reader of the sampled rationale that the judges choose.
    """
    found = []
    for row in ROWS:
        measured = [(metrics.get(row.model, {}).get(c), row.paper.get(c)) for c in columns(metrics)]
        found.append(TableRow(row.name, row.model, tuple(_cell(m, p) for m, p in measured)))
        read = [None if m is None else m.reader for m, _ in measured]
        if any(read):
            cells = tuple(Cell(_rates_or_missing(r), MISSING, MISSING, MISSING) for r in read)
            found.append(TableRow(f"{row.name}, rationales read", f"{row.model} + reader", cells))
        best = [None if m is None else m.best_read for m, _ in measured]
        if any(best):
            cells = tuple(
                Cell(_rates_or_missing(r), MISSING, MISSING if r is None else str(r.n), MISSING)
                for r in best
            )
            name = f"{row.name}, best sample read"
            found.append(TableRow(name, f"{row.model}, best read", cells))
    return found


def _rates_or_missing(rates: Rates | None) -> str:
    return MISSING if rates is None else rates_text(rates)


def rates_text(rates: Rates) -> str:
    """WAR / UAR in percent with the half-widths of their intervals: "65.8 ± 1.9 / 56.3 ± 2.4"."""
    war = f"{100 * rates.war:.1f} ± {100 * half_width(rates.war_ci):.1f}"
    return f"{war} / {100 * rates.uar:.1f} ± {100 * half_width(rates.uar_ci):.1f}"


def interval_name(metrics: Metrics) -> str:
    """The intervals' name: "95 % bootstrap interval"."""
    levels = sorted({m.confidence for corpora in metrics.values() for m in corpora.values()})
    percents = [f"{100 * level:g} %" for level in levels]
    return " ".join([", ".join(percents), "bootstrap interval"]).strip()


def protocol_lines(metrics: Metrics) -> list[str]:
    """The notes below the table, one sentence per line."""
    tests = []
    for corpus, name in columns(metrics).items():
        measured = [m[corpus] for m in metrics.values() if corpus in m]
        if measured:
            folds = "no folds" if measured[0].fold is None else f"fold {measured[0].fold}"
            counts = sorted({m.n for m in measured})
            tests.append(f"{name} n = {', '.join(map(str, counts))} ({folds})")
    return [
        f"WAR / UAR in percent, ± half the {interval_name(metrics)} over the test clips.",
        "Protocol: open vocabulary, after normalisation; an answer that is not exactly one known "
        f"label is wrong. {calm_sentence(metrics)}".strip(),
        f"Test sets: {'; '.join(tests) or 'none measured'}.",
        *_reader_lines(metrics),
        *_best_lines(metrics),
        *_undecoded_lines(metrics),
        *corpus_lines(metrics),
        f"Paper: {SOURCE}, on the real corpora, 0.5B. Its own WAR is uncertain by "
        + ", ".join(f"± {PAPER_HALF_WIDTHS[c]} ({CORPORA[c]})" for c in CORPORA)
        + ".",
    ]


def calm_sentence(metrics: Metrics) -> str:
    """Which test corpora have calm as a class and which lack it; nothing where none has it."""
    having: list[str] = []
    lacking: list[str] = []
    for corpus, name in columns(metrics).items():
        if found := [m[corpus] for m in metrics.values() if corpus in m]:
            (having if found[0].calm is not None else lacking).append(name)
    if not having:
        return ""
    lack = f", which {_joined(lacking)} lack{'' if len(lacking) > 1 else 's'}" if lacking else ""
    return f"{_joined(having)} keep{'s' if len(having) == 1 else ''} calm as a class{lack}."


def render_table1_markdown(metrics: Metrics) -> str:
    """Table 1 as Markdown: per corpus our numbers and the paper's, then the format rate."""
    head = ["the paper's row", "checkpoint"]
    for name in marked(metrics):
        head += [name, PAPER]
    head.append("format rate " + " · ".join(columns(metrics).values()))
    lines = [_pipes(head), _pipes(["---"] * len(head))]
    for row in table1(metrics):
        cells = [row.name, f"`{row.model}`"]
        for cell in row.cells:
            cells += [cell.ours, cell.paper]
        cells.append(" · ".join(cell.format_rate for cell in row.cells))
        lines.append(_pipes(cells))
    notes = "\n".join(f"- {line}" for line in protocol_lines(metrics))
    title = f"Table 1: {caption(metrics)}" if metrics else "Table 1: nothing measured"
    return f"**{title}**\n\n" + "\n".join(lines) + "\n\n" + notes + "\n"


def render_table1_html(metrics: Metrics) -> str:
    """Table 1 as an HTML page."""
    return render(
        "table1.html.jinja",
        rows=table1(metrics),
        corpora=marked(metrics),
        caption=caption(metrics) if metrics else "nothing measured",
        paper=PAPER,
        notes=protocol_lines(metrics),
    )


def render_table1_text(metrics: Metrics) -> str:
    """Table 1 for a terminal, at most 100 columns wide: per model our line, then the paper's.

    `format` is the format rate in percent over all test clips.
    """
    head = ["", *(_head(metrics, corpus) for corpus in columns(metrics)), "format"]
    marks = ["", *(mark(metrics, corpus) for corpus in columns(metrics)), ""]
    lines: list[list[str]] = []
    for row in table1(metrics):
        ours = [cell.ours.replace(" ± ", "±") for cell in row.cells]
        lines.append([row.model, *ours, _overall_format(metrics, row.model)])
        if any(cell.paper != MISSING for cell in row.cells):
            lines.append([f"  paper: {row.name}", *(cell.paper for cell in row.cells), ""])
    widths = [max(len(line[i]) for line in [head, marks, *lines]) for i in range(len(head))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
    body = [_padded(line, widths) for line in lines]
    title = f"Table 1 · WAR / UAR in %, ± half the {interval_name(metrics)} · calm kept"
    about = [
        *textwrap.wrap(short_caption(metrics), WIDTH),
        *_undecoded_lines(metrics),
        *(line for note in _best_lines(metrics) for line in textwrap.wrap(note, WIDTH)),
        f"rows marked paper: {PAPER_DATA}",
    ]
    heads = [_padded(head, widths), _padded(marks, widths)]
    if not metrics:
        about, heads = about[-1:], heads[:1]
    return "\n".join([title, *about, rule, *heads, rule, *body, rule]) + "\n"


def _cell(measured: CorpusMetrics | None, paper: tuple[float, float] | None) -> Cell:
    of_paper = MISSING if paper is None else f"{paper[0]:.2f} / {paper[1]:.2f}"
    if measured is None:
        return Cell(MISSING, of_paper, MISSING, MISSING)
    return Cell(
        rates_text(measured), of_paper, str(measured.n), f"{100 * measured.format_rate:.1f} %"
    )


def _head(metrics: Metrics, corpus: str) -> str:
    counts = sorted({m[corpus].n for m in metrics.values() if corpus in m})
    name = columns(metrics)[corpus]
    return f"{name} (n {'/'.join(map(str, counts))})" if counts else name


def _reader_lines(metrics: Metrics) -> list[str]:
    """What the reader's rows are, if there are any."""
    if not any(m.reader for corpora in metrics.values() for m in corpora.values()):
        return []
    return [
        "Reader: it sees no clip. It answers from the claims of the model's rationale alone, among "
        "the corpus's labels, by a regression fitted on the cold start's texts."
    ]


def _best_lines(metrics: Metrics) -> list[str]:
    """What the rows of the best samples are, if there are any."""
    read = [m.best_read for corpora in metrics.values() for m in corpora.values() if m.best_read]
    if not read:
        return []
    counts = "/".join(map(str, sorted({rates.n for rates in read})))
    return [
        "Best read: the reader answers from the one of several sampled rationales that the judges "
        f"support most, on the audited clips of each corpus alone (n {counts})."
    ]


def _undecoded_lines(metrics: Metrics) -> list[str]:
    """A line with the numbers of test clips that could not be decoded; no line if there are 0."""
    parts = []
    for corpus, name in columns(metrics).items():
        counts = sorted({m[corpus].undecoded or 0 for m in metrics.values() if corpus in m})
        if any(counts):
            parts.append(f"{name} {'/'.join(map(str, counts))}")
    return [f"Left out of n, as they could not be decoded: {', '.join(parts)}."] if parts else []


def _overall_format(metrics: Metrics, model: str) -> str:
    measured = list(metrics.get(model, {}).values())
    if not measured:
        return MISSING
    n = sum(m.n for m in measured)
    return f"{100 * sum(m.format_rate * m.n for m in measured) / n:.1f}"


def _joined(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _padded(cells: list[str], widths: list[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    aligned = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]
    return "  ".join(aligned).rstrip()


def _pipes(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
