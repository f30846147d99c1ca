"""Table 1 and the report page, headless."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_run import ATTACK, REPORT, SCORE, Run

from r1omni.evaluation.report.curves import Curve, curves_csv, read_curves
from r1omni.evaluation.report.groups import read_groups
from r1omni.evaluation.report.labels import caption, headline
from r1omni.evaluation.report.paper import ROWS
from r1omni.evaluation.report.report import run_report
from r1omni.evaluation.report.table1 import (
    MISSING,
    protocol_lines,
    render_table1_markdown,
    render_table1_text,
    table1,
)
from r1omni.evaluation.report.tables import gains_table
from r1omni.evaluation.results import CorpusMetrics, GainOver, Metrics, Rates, read_metrics
from r1omni.evaluation.score import run_score
from r1omni.lineage import size_text

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: text, ids, links, images; fails on tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def reported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports")
    metrics = out / "metrics.json"
    run_score(run.predictions, run.truth, metrics, out / "plots", score=SCORE, backbone="humanomni")
    run_report(out / "metrics.json", run.predictions, run.training, run.sheets, out, report=REPORT)
    return out


@pytest.fixture
def metrics(reported: Path) -> Metrics:
    return read_metrics(reported / "metrics.json")


@pytest.fixture
def page(reported: Path) -> Page:
    return Page((reported / "report.html").read_text(encoding="utf-8"))


def by_hand(war: float, uar: float, reach: float) -> CorpusMetrics:
    return CorpusMetrics(
        war=war, uar=uar, war_ci=(war - reach, war + reach), uar_ci=(uar - reach, uar + reach),
        n=2341, recall={"happy": war}, fold=1, mode="reasoned", confidence=0.95,
        protocol="open", calm_policy="keep",
        format_rate=0.995, finished_rate=1.0, silent=0, gain_over={},
        confusion={"rows": ["happy"], "columns": ["happy", "none"], "counts": [[1, 0]]},
    )  # fmt: skip


def test_a_cell_holds_percents_and_half_widths():
    cell = table1({"grpo": {"dfew": by_hand(0.6583, 0.5627, 0.0192)}})[3].cells[0]
    assert cell.ours == "65.8 ± 1.9 / 56.3 ± 1.9"
    assert (cell.paper, cell.n, cell.format_rate) == ("65.83 / 56.27", "2341", "99.5 %")


def test_the_reader_of_the_best_sample_has_a_row_with_its_own_n():
    own = by_hand(0.6583, 0.5627, 0.0192)
    read = Rates(war=0.75, uar=0.5, war_ci=(0.7, 0.8), uar_ci=(0.4, 0.6), n=120, recall={})
    metrics = {"grpo": {"dfew": own.model_copy(update={"best_read": read})}}
    row = table1(metrics)[4]
    assert (row.name, row.model) == ("R1-Omni, best sample read", "grpo, best read")
    assert [cell.ours for cell in row.cells] == ["75.0 ± 5.0 / 50.0 ± 10.0", MISSING, MISSING]
    assert [cell.n for cell in row.cells] == ["120", MISSING, MISSING]
    assert "of each corpus alone (n 120)" in " ".join(protocol_lines(metrics))
    assert "grpo, best read" in render_table1_text(metrics)


def test_what_was_not_measured_is_a_dash():
    cell = table1({})[0].cells[0]
    assert (cell.ours, cell.paper, cell.n) == ("–", "22.64 / 19.44", "–")  # noqa: RUF001


def test_the_papers_numbers_stand_in_the_papers_order():
    assert [row.name for row in ROWS] == ["HumanOmni-0.5B", "EMER-SFT", "MAFW-DFEW-SFT", "R1-Omni"]
    assert [row.model for row in ROWS] == ["base", "cold_start", "label_sft", "grpo"]
    assert ROWS[3].paper["ravdess"] == (43.00, 44.69)
    assert all(sorted(row.paper) == ["dfew", "mafw", "ravdess"] for row in ROWS)


def test_the_terminal_table_is_at_most_100_columns_wide_even_at_full_marks(metrics: Metrics):
    full = {row.model: dict.fromkeys(row.paper, by_hand(1.0, 1.0, 0.0)) for row in ROWS}
    for measured in (metrics, full, {}):
        text = render_table1_text(measured)
        assert max(map(len, text.splitlines())) <= 100
    text = render_table1_text(metrics)
    assert "DFEW (n 70)" in text
    assert f"{100 * metrics['grpo']['dfew'].war:.1f}±" in text
    assert "65.83 / 56.27" in text
    assert "± half the 95 % bootstrap interval" in text


def test_markdown_has_as_many_cells_in_every_row(metrics: Metrics):
    table = [line for line in render_table1_markdown(metrics).splitlines() if line.startswith("|")]
    assert len(table) == 6
    assert {line.count("|") for line in table} == {10}
    assert "| R1-Omni | `grpo` |" in table[-1]


def with_data(metrics: Metrics, **kinds: str) -> Metrics:
    """The metrics with other origins: all corpora, or one by its name."""
    everywhere = kinds.pop("trained_on", "synthetic")
    return {
        model: {
            corpus: m.model_copy(
                update={"data": kinds.get(corpus, kinds.get("data")), "trained_on": everywhere}
            )
            for corpus, m in corpora.items()
        }
        for model, corpora in metrics.items()
    }


def test_every_table_says_synthetic_and_the_models_size(reported: Path, metrics: Metrics):
    markdown = (reported / "table1.md").read_text(encoding="utf-8")
    said = "synthetic corpora (rendered faces), HumanOmni, 1.0 M parameters, seed 1"
    assert markdown.startswith(f"**Table 1: {said}**\n")
    assert "DFEW (synthetic)" in markdown and "paper, real corpora, 0.5B" in markdown
    assert "RAVDESS (shortcut 0, seed 1)" in markdown
    assert "grpo (trained on synthetic data, seed 1, code c0dec0dec0de" in markdown
    text = render_table1_text(metrics)
    assert text.splitlines()[1:3] == [said, "rows marked paper: real corpora, 0.5B"]
    assert text.count("(synthetic)") == 3
    html = Page((reported / "table1.html").read_text(encoding="utf-8"))
    assert f"Ours: {said}." in " ".join(html.text)


def test_the_reports_first_screen_says_what_it_is(page: Page):
    text = " ".join(page.text)
    title = "R1-Omni's recipe on synthetic corpora (rendered faces), a 1.0 M model"
    assert text.count(title) == 2  # of the window and of the page
    lead = text[text.rindex(title) : text.index("Emotion recognition from")]
    assert "Synthetic corpora (rendered faces), HumanOmni, 1.0 M parameters, seed 1." in lead
    assert "They say nothing about real people" in lead


def test_one_real_and_two_synthetic_corpora_are_marked_each(metrics: Metrics):
    mixed = with_data(metrics, data="synthetic", ravdess="real")
    head = render_table1_markdown(mixed).splitlines()[2]
    for column in ("DFEW (synthetic)", "MAFW (synthetic)", "RAVDESS (real)"):
        assert f"| {column} |" in head
    text = render_table1_text(mixed)
    marks = next(line for line in text.splitlines() if "(real)" in line)
    assert marks.split() == ["(synthetic)", "(synthetic)", "(real)"]
    assert max(map(len, text.splitlines())) <= 100
    assert headline(mixed).title == (
        "R1-Omni's recipe trained on synthetic corpora (rendered faces), measured on mixed corpora "
        "(synthetic and real), a 1.0 M model"
    )
    assert caption(mixed).startswith("DFEW, MAFW: synthetic (rendered faces); RAVDESS: real, ")


def test_real_data_has_another_title_and_nothing_is_claimed_of_unknown_data(metrics: Metrics):
    real = headline(with_data(metrics, data="real", trained_on="real"))
    assert real.title == "R1-Omni's recipe on real corpora, a 1.0 M model"
    assert "rendered" not in real.title + real.lead
    unknown = with_data(metrics, data="unknown", trained_on="unknown")
    assert headline(unknown).title.startswith("R1-Omni's recipe on corpora of unknown origin")
    assert "(origin unknown)" in render_table1_text(unknown)


def test_sizes_are_said_as_people_say_them():
    sizes = (12_345, 1_034_567, 893_900_000, 999_999_999, 7_616_000_000)
    said = ["0.012 M", "1.0 M", "894 M", "1.0 B", "7.6 B"]
    assert [size_text(size) for size in sizes] == said


def gained(war_ci: tuple[float, float], uar_ci: tuple[float, float]) -> Metrics:
    middle = {"war": sum(war_ci) / 2, "uar": sum(uar_ci) / 2}
    half = {"war_half_width": 0.01, "uar_half_width": 0.01}
    over = {"base": GainOver(**middle, **half, war_ci=war_ci, uar_ci=uar_ci)}
    return {"grpo": {"dfew": by_hand(0.5, 0.5, 0.1).model_copy(update={"gain_over": over})}}


@pytest.mark.parametrize(
    ("war_ci", "uar_ci", "shade", "is_loss"),
    [
        ((0.01, 0.09), (0.02, 0.05), 0.5, False),
        ((-0.09, -0.01), (-0.05, -0.02), 0.5, True),
        ((-0.001, 0.09), (0.02, 0.05), None, False),  # larger than its half-width, and around 0
        ((0.01, 0.09), (-0.05, -0.02), None, False),
    ],
)
def test_gains_and_losses_are_shaded_where_both_intervals_exclude_0(war_ci, uar_ci, shade, is_loss):
    table = gains_table(gained(war_ci, uar_ci))
    cell = table.rows[0][1][0]
    assert (cell.shade, cell.is_loss) == (shade, is_loss)
    assert cell.text.endswith("▼" if is_loss else "▲") == (shade is not None)
    assert "exclude 0, green and ▲ for gains, red and ▼ for losses" in table.caption


def test_a_printed_table_is_not_cut(reported: Path):
    """MAFW's eleven classes: a landscape page, small type, and nothing that has to be scrolled."""
    styles = (reported / "report.html").read_text(encoding="utf-8")
    printed = styles[styles.index("@media print") : styles.index("</style>")]
    assert ".scroll { overflow: visible; }" in printed
    assert "max-width: none" in printed
    assert "@page { size: A4 landscape;" in styles


def test_the_page_is_well_formed_html(page: Page):
    assert page.open == []
    assert page.tags.count("h1") == 1


def test_the_page_holds_the_numbers_of_table_1(page: Page, metrics: Metrics):
    text = " ".join(page.text)
    for row in table1(metrics):
        assert row.name in text
        for cell in row.cells:
            assert cell.ours in text
            assert f"paper {cell.paper}" in text or cell.paper == MISSING


def test_every_model_text_is_escaped(reported: Path, page: Page):
    html = (reported / "report.html").read_text(encoding="utf-8")
    assert ATTACK not in html
    assert "&lt;script&gt;alert(" in html
    assert "script" not in page.tags
    assert any(ATTACK in text for text in page.text)


def test_the_page_loads_nothing_from_elsewhere(reported: Path, page: Page):
    for name in ("report.html", "table1.html"):
        found = Page((reported / name).read_text(encoding="utf-8"))
        assert not {"script", "link", "iframe", "object"} & set(found.tags)
        assert all(re.match("data:image/(png|webp);base64,", src) for src in found.values("src"))
        assert all(href.startswith("#") for href in found.values("href"))
        styles = (reported / name).read_text(encoding="utf-8")
        assert "http://" not in styles
        assert "https://" not in styles
        assert "url(" not in styles
    assert len(page.values("src")) == 1 + 12 + 7 + 3 + 1  # bars, confusions, GRPO, losses, sheet


def test_every_picture_says_what_it_shows_and_every_link_leads_somewhere(page: Page):
    alts = page.values("alt")
    assert len(alts) == page.tags.count("img")
    assert all(len(alt) > 20 for alt in alts)
    assert {href.removeprefix("#") for href in page.values("href")} <= set(page.values("id"))
    assert len(set(page.values("id"))) == len(page.values("id"))


def test_cards_and_rollouts_are_shown_as_params_say(page: Page):
    assert page.tags.count("article") == 7 + 11 + 8  # one card for each label of each corpus
    assert page.tags.count("details") == 4 + 3  # groups; confusion, examples and sheets are folded
    assert " ".join(page.text).count("Which emotion?") == 4  # what was asked, once a group


def test_before_and_after_grpo_stand_side_by_side(page: Page, metrics: Metrics):
    text = " ".join(page.text)
    assert "groups without reward variance" in text
    face = metrics["grpo"]["dfew"].rationale_truth.face
    assert f"{100 * face:.1f} / " in text


def test_without_an_audit_the_page_says_so(reported: Path):
    html = (reported / "report.html").read_text(encoding="utf-8")
    assert "No model was audited." in html and "<svg" not in html


def test_the_report_is_the_same_for_the_same_input(reported: Path, run: Run, tmp_path: Path):
    metrics = reported / "metrics.json"
    run_report(metrics, run.predictions, run.training, run.sheets, tmp_path, report=REPORT)
    for name in ("report.html", "table1.md", "table1.html", "curves/grpo.csv"):
        assert (tmp_path / name).read_bytes() == (reported / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "curves", "report.html", "table1.html", "table1.md",
    ]  # fmt: skip


def test_whatever_is_missing_is_said_on_the_page(run: Run, tmp_path: Path):
    run_score(run.predictions[:1], [], tmp_path / "m.json", tmp_path / "plots", score=SCORE)
    run_report(tmp_path / "m.json", [], tmp_path / "none", [], tmp_path, report=REPORT)
    text = " ".join(Page((tmp_path / "report.html").read_text(encoding="utf-8")).text)
    for missing in (
        "No two models answered the same clips", "No GRPO curves", "No side file", "No curves of",
        "No predictions", "No rollouts", "No contact sheets",
    ):  # fmt: skip
        assert missing in text
    assert not (tmp_path / "curves").exists()


def test_a_curve_knows_its_start_its_end_and_its_running_mean(tmp_path: Path):
    path = tmp_path / "curves.jsonl"
    lines = [f'{{"step": {i}, "a": {i}, "b": NaN}}' for i in range(1, 81)]
    path.write_text("\n".join(lines) + "\n")
    curve = read_curves(path)["a"]
    assert (curve.start, curve.end) == (4.5, 76.5)  # means of 1..8 and 73..80
    assert curve.smooth[0] == 2.0  # mean of 1, 2, 3: the window reaches two steps either side
    assert curve.smooth[40] == 41.0
    assert "b" not in read_curves(path)


def test_a_broken_line_of_curves_is_named(tmp_path: Path):
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1, "a": 2}\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"curves\.jsonl:2: expected"):
        read_curves(path)


def test_curves_as_csv_have_a_line_a_step(tmp_path: Path):
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1, "a": 2}\n{"step": 3, "a": 4, "b": 5}\n')
    curves: list[Curve] = list(read_curves(path).values())
    assert curves_csv(curves) == "step,a,b\n1,2.0,\n3,4.0,5.0\n"


def test_the_viewer_shows_the_first_and_the_last_groups(run: Run):
    viewer = read_groups(run.training / "grpo/rollouts.parquet", 4)
    assert viewer is not None
    assert [group.step for group in viewer.early] == [1, 1]
    assert [group.step for group in viewer.late] == [120, 120]
    group = viewer.early[0]
    assert len(group.rollouts) == 4
    advantages = [rollout.advantage for rollout in group.rollouts]
    assert advantages == sorted(advantages, reverse=True)
    assert group.prompt == "Which emotion?"
