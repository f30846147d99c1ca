"""The report stage: metrics, predictions and training curves -> one self-contained page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from r1omni.claims import Verdict
from r1omni.emotions import EMOTIONS
from r1omni.evaluation.predictions import Prediction, read_predictions
from r1omni.evaluation.report.audit_pictures import audit_pictures
from r1omni.evaluation.report.audited import Audited, read_audits
from r1omni.evaluation.report.cards import example_cards
from r1omni.evaluation.report.claim_cards import claim_cards, with_pictures
from r1omni.evaluation.report.curves import Curve, curves_csv, read_curves
from r1omni.evaluation.report.groups import read_groups
from r1omni.evaluation.report.labels import PAPER, caption, headline, marked
from r1omni.evaluation.report.paper import ROWS, columns
from r1omni.evaluation.report.plots import (
    COLOURS,
    Plot,
    confusion_plot,
    curve_plot,
    war_bars,
    webp_uri,
)
from r1omni.evaluation.report.table1 import (
    protocol_lines,
    render_table1_html,
    render_table1_markdown,
    table1,
)
from r1omni.evaluation.report.tables import (
    before_after_table,
    calm_tables,
    gains_table,
    recall_tables,
    scenes_table,
    words_table,
)
from r1omni.evaluation.report.templates import render
from r1omni.evaluation.results import Metrics, read_metrics, write_text
from r1omni.evaluation_config import ReportParams
from r1omni.judges.verdicts import read_verdicts

if TYPE_CHECKING:
    from r1omni.evaluation.report.clip_media import Clips

STAGES: Final[tuple[str, ...]] = ("base", "cold_start", "label_sft", "grpo")
GRPO_CURVES: Final[dict[str, str]] = {
    "train/kl": "KL to the frozen start",
    "rollout/completion_length": "Completion length, tokens",
    "rollout/zero_variance_groups": "Share of groups without reward variance",
    "rollout/entropy": "Entropy per token, nats",
    "optim/grad_norm": "Gradient norm",
}


@dataclass(frozen=True)
class ConfusionRow:
    """The confusion matrices of one corpus, one plot per model."""

    corpus: str
    plots: tuple[Plot, ...]


def run_report(
    metrics: Path,
    predictions: Sequence[Path],
    training: Path,
    sheets: Sequence[Path],
    out: Path,
    audit: Path | None = None,
    verdicts: Sequence[Path] = (),
    clips: "Clips | None" = None,
    *,
    report: ReportParams,
) -> None:
    """Write report.html, table1.md, table1.html and curves/<stage>.csv into the folder `out`.

    `training` has a folder per stage with curves.jsonl, and grpo/rollouts.parquet; `sheets` are
    contact sheets (PNG); `audit` is the folder of the audits (see read_audits), `verdicts`:
    the judges' tables, of test clips for the cards, of training clips for the rollouts; `clips`
    finds the cards' clips. The page names whatever is missing. It embeds its plots and loads
    nothing.
    """
    measured = read_metrics(metrics)
    rows = [row for path in predictions for row in read_predictions(path)]
    curves = {stage: read_curves(training / stage / "curves.jsonl") for stage in STAGES}
    audits = [] if audit is None else read_audits(audit)
    known = {id: verdict for path in verdicts for id, verdict in read_verdicts(path).items()}
    page = render_page(
        measured, rows, curves, training, sheets, audits, known, clips, report=report
    )
    write_text(out / "table1.md", render_table1_markdown(measured))
    write_text(out / "table1.html", render_table1_html(measured))
    for stage, found in curves.items():
        if found:
            write_text(out / "curves" / f"{stage}.csv", curves_csv(list(found.values())))
    write_text(out / "report.html", page)


def render_page(
    metrics: Metrics,
    rows: Sequence[Prediction],
    curves: Mapping[str, Mapping[str, Curve]],
    training: Path,
    sheets: Sequence[Path],
    audits: Sequence[Audited],
    verdicts: Mapping[str, Verdict],
    clips: "Clips | None",
    *,
    report: ReportParams,
) -> str:
    """The whole page as HTML."""
    claims = claim_cards(audits, report.cards_per_label, verdicts)
    if clips is not None:
        claims = with_pictures(claims, clips.read({card.clip.clip_id for card in claims}))
    return render(
        "page.html.jinja",
        rows=table1(metrics),
        headline=headline(metrics),
        caption=caption(metrics),
        paper=PAPER,
        corpora=marked(metrics),
        notes=protocol_lines(metrics),
        bars=war_bars(metrics),
        gains=gains_table(metrics),
        confusions=_confusions(metrics),
        recalls=recall_tables(metrics),
        calm=calm_tables(metrics),
        before_after=before_after_table(metrics, curves["grpo"]),
        scenes=scenes_table(metrics),
        words=words_table(metrics),
        grpo_plots=_grpo_plots(curves["grpo"]),
        loss_plots=_loss_plots(curves),
        viewer=read_groups(training / "grpo" / "rollouts.parquet", report.rollout_groups, verdicts),
        pictures=audit_pictures(audits, claims) if audits else [],
        claims=claims,
        emotions=EMOTIONS,
        cards=example_cards(rows, report.cards_per_label),
        sheets=[_sheet(path) for path in sheets],
    )


def _confusions(metrics: Metrics) -> list[ConfusionRow]:
    found = []
    for corpus, name in columns(metrics).items():
        plots = tuple(
            confusion_plot(row.model, corpus, metrics[row.model][corpus])
            for row in ROWS
            if corpus in metrics.get(row.model, {})
        )
        if plots:
            found.append(ConfusionRow(name, plots))
    return found


def _grpo_plots(curves: Mapping[str, Curve]) -> list[Plot]:
    names = {
        key: f"{key.removeprefix('reward/').capitalize()} reward, sampled"
        for key in sorted(curves)
        if key.startswith("reward/") and key != "reward/total"
    } | GRPO_CURVES
    return [curve_plot(curves[key], name) for key, name in names.items() if key in curves]


def _loss_plots(curves: Mapping[str, Mapping[str, Curve]]) -> list[Plot]:
    return [
        curve_plot(curve, f"{stage}: {key}", COLOURS[stage])
        for stage in ("base", "cold_start", "label_sft")
        for key, curve in curves[stage].items()
        if key.endswith("/loss")
    ]


def _sheet(path: Path) -> Plot:
    name = f"Contact sheet {path.stem}: frames of synthetic clips by emotion"
    return Plot(webp_uri(path), name, path.stem)
