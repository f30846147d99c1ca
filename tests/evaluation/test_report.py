"""Table 1 and the report page, headless."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up_run import ATTACK, REPORT, SCORE, Run

from r1omni.evaluation.report.curves import Curve, curves_csv, read_curves
from r1omni.evaluation.report.groups import read_groups
from r1omni.evaluation.report.paper import ROWS
from r1omni.evaluation.report.report import run_report
from r1omni.evaluation.report.table1 import render_table1_markdown, render_table1_text, table1
from r1omni.evaluation.results import CorpusMetrics, Metrics, read_metrics
from r1omni.evaluation.score import run_score

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
    run_score(run.predictions, run.truth, out / "metrics.json", out / "plots", score=SCORE)
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


def test_the_page_is_well_formed_html(page: Page):
    assert page.open == []
    assert page.tags.count("h1") == 1


def test_the_page_holds_the_numbers_of_table_1(page: Page, metrics: Metrics):
    text = " ".join(page.text)
    for row in table1(metrics):
        assert row.name in text
        for cell in row.cells:
            assert cell.ours in text
            assert f"paper {cell.paper}" in text


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
        assert all(src.startswith("data:image/png;base64,") for src in found.values("src"))
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
    assert page.tags.count("details") == 4
    assert " ".join(page.text).count("Which emotion?") == 4  # what was asked, once a group


def test_before_and_after_grpo_stand_side_by_side(page: Page, metrics: Metrics):
    text = " ".join(page.text)
    assert "groups without reward variance" in text
    face = metrics["grpo"]["dfew"].rationale_truth.face
    assert f"{100 * face:.1f} / " in text


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
