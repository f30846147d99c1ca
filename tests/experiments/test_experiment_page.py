"""A study's rows and tables, worked by hand; empty cells where nothing was measured."""

from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from r1omni.commands.experiment import repeat_options
from r1omni.evaluation.audit_results import AuditResults, Measured
from r1omni.evaluation.results import ConfusionCounts, CorpusMetrics, GainOver, RationaleTruth
from r1omni.experiments.headings import Heading, Table, read_end, read_numbers
from r1omni.experiments.page import render, write_page
from r1omni.experiments.rows import Row, Rows, read_rows, write_rows
from r1omni.experiments.studies import STUDIES, Study, Variant, choose_trials, find_study
from r1omni.params_file import read_params

REPO = Path(__file__).resolve().parents[2]
TABLE = Table("T", (Heading("war / uar", ("war", "uar")), Heading("share", ("share",))))
STUDY = Study(
    "study", "Why?", (Variant("a"), Variant("b", ("x=1",), ("grpo",))),
    models=("base", "grpo"), tables=(TABLE,),
)  # fmt: skip


def row(**numbers: float | tuple[float, float, float]) -> Row:
    found = {
        key: Measured(value=v, n=9) if isinstance(v, float) else Measured(
            value=v[0], low=v[1], high=v[2], n=9
        )
        for key, v in numbers.items()
    }  # fmt: skip
    return Row(commit="c" * 40, settings=(), models={"grpo": found})


def corpus(war: float, n: int, counts: list[list[int]], **more: object) -> CorpusMetrics:
    recall = {
        name: c[i] / sum(c) for i, (name, c) in enumerate(zip("ab", counts, strict=True)) if sum(c)
    }
    return CorpusMetrics(
        war=war, uar=0.0, war_ci=(war - 0.1, war + 0.1), uar_ci=(0.0, 0.0), n=n, recall=recall,
        fold=1, mode="reasoned", confidence=0.95, protocol="", calm_policy="keep",
        format_rate=1.0, finished_rate=1.0, silent=0, gain_over={},
        confusion=ConfusionCounts(rows=["a", "b"], columns=["a", "b", "none"], counts=counts),
        **more,
    )  # fmt: skip


def test_numbers_of_all_corpora_are_over_all_clips():
    truth = RationaleTruth(face=0.5, voice=None, n_statements=30)
    corpora = {
        "dfew": corpus(0.75, 4, [[2, 1, 0], [0, 1, 0]], rationale_truth=truth),
        "mafw": corpus(0.5, 6, [[0, 3, 0], [0, 3, 0]],
                       rationale_truth=truth.model_copy(update={"face": 1.0, "n_statements": 10})),
    }  # fmt: skip
    found = {key: m.value for key, m in read_numbers(corpora, None).items()}
    assert found["all.war"] == (3 + 3) / 10
    # a: 2 of 6 clips, b: 4 of 4
    assert found["all.uar"] == pytest.approx((2 / 6 + 1) / 2)
    assert found["truth.face"] == (0.5 * 30 + 1.0 * 10) / 40
    uneven = {
        "dfew": corpora["dfew"].model_copy(update={"rationale_truth": RationaleTruth(
            face=1.0, voice=1.0, n_statements=900, n_face=899, n_voice=1)}),
        "mafw": corpora["mafw"].model_copy(update={"rationale_truth": RationaleTruth(
            face=0.0, voice=0.0, n_statements=1000, n_face=900, n_voice=100)}),
    }  # fmt: skip
    voice = read_numbers(uneven, None)["truth.voice"]
    assert (voice.value, voice.n) == (1 / 101, 101)
    for key in ("truth.voice", "all.reader.war", "follows_scene", "shapley.audio_share"):
        assert key not in found


def test_a_trainings_end_is_the_last_value_of_each_metric():
    lines = ['{"step": 1, "held_out/war": 0.5, "train/kl": 0.1}', '{"step": 2, "train/kl": 0.25}']
    found = {key: m.value for key, m in read_end("\n".join(lines)).items()}
    assert found == {"held_out.war": 0.5, "train.kl": 0.25}


def test_the_audits_numbers_are_those_of_all_corpora():
    share, other = Measured(value=0.25, low=0.2, high=0.3, n=8), Measured(value=1.0, n=1)
    audit = AuditResults(
        model="m", mode="reasoned",
        corpora={"all": {"shapley.audio_share": share}, "dfew": {"absent.audio.war": other}},
    )  # fmt: skip
    gain = GainOver(war=0.25, war_ci=(0.0, 0.5), war_half_width=0.25, uar=0.0, uar_half_width=0.0)
    measured = corpus(0.5, 2, [[1, 1, 0], [0, 0, 0]]).model_copy(
        update={"gain_over": {"base": gain}}
    )
    found = read_numbers({"dfew": measured}, audit)
    assert found["shapley.audio_share"] == share
    assert found["dfew.war"].low == pytest.approx(0.4)
    assert (found["dfew.gain.base"].value, found["dfew.gain.base"].high) == (0.25, 0.5)
    assert "absent.audio.war" not in found


def test_every_row_and_means_with_their_spread_and_empty_cells():
    rows = Rows(
        rows={
            "a/1": row(war=(0.5, 0.45, 0.55), share=0.25),
            "a/2": row(war=0.7, uar=0.25),
            "b/1": row(uar=0.125),
        },
        failed={"b/2": "line\nno `space` left"},
    )
    page = render(STUDY, list(STUDY.trials([1, 2])), rows)
    assert "| a | 1 | grpo | 50.0 ± 5.0 / - | 25.0 |" in page
    assert "| a | 2 | grpo | 70.0 / 25.0 |  |" in page
    assert "| a | 1 | base |  |  |" in page  # without numbers: empty, never 0
    assert "| a | 2 | grpo | 60.0 (sd 14.1) / 25.0 (n 1) | 25.0 (n 1) |" in page  # sqrt(2) * 10
    assert "| b | 1 | grpo | - / 12.5 |  |" in page and "| b | 1 | base" not in page
    assert "No numbers yet: b/2." in page and "Failed: b/2: `no space left`" in page
    assert "Measured by commit ccccccc." in page


def test_only_what_stands_between_the_markers_is_written(tmp_path):
    page = tmp_path / "results/study.md"
    write_page(page, "study", "Why?", "old\n")
    text = page.read_text()
    assert text.startswith("# study\n\nWhy?\n") and "\nold\n" in text
    page.write_text(text.replace("Why?", "What it says: much.") + "after\n")
    write_page(page, "study", "Why?", "new\n")
    assert (
        page.read_text()
        == text.replace("Why?", "What it says: much.").replace("old", "new") + "after\n"
    )
    page.write_text("no markers")
    with pytest.raises(ValueError, match=r"study\.md: expected the markers"):
        write_page(page, "study", "Why?", "new\n")


def test_rows_are_kept_and_a_bad_file_is_named(tmp_path):
    path = tmp_path / "study.json"
    assert read_rows(path) == Rows()
    rows = Rows(rows={"a/1": row(war=(0.5, 0.4, 0.6))}, failed={"b/1": "log"})
    write_rows(rows, path)
    assert read_rows(path) == rows
    path.write_text('{"rows": {"a/1": {}}}')
    with pytest.raises(ValueError, match=r"study\.json: rows\.a/1\.commit"):
        read_rows(path)


def test_a_row_is_named_and_set_by_variant_and_seed():
    (trial,) = choose_trials(find_study("dropout"), [1, 2], ["0.15/2"])
    assert trial.name == "dropout-0-15-seed-2"
    assert "grpo.modality_dropout.audio=0.15" in trial.settings
    assert trial.settings[-2:] == ("cold_start.seed=2", "grpo.seed=2")
    assert trial.targets == ("score", "audit@cold_start", "audit@grpo")
    with pytest.raises(ValueError, match=r"'0\.15/3'; a row is VARIANT or VARIANT/SEED"):
        choose_trials(find_study("dropout"), [1, 2], ["0.15/3"])
    with pytest.raises(ValueError, match="no study 'drop'; known: backbones, control"):
        find_study("drop")


def settings_of_all_studies() -> dict[str, tuple[str, ...]]:
    trials = (t for study in STUDIES.values() for t in study.trials([7]))
    return {trial.name: trial.settings for trial in trials}


@pytest.mark.parametrize("name", settings_of_all_studies())
def test_params_are_valid_with_a_rows_settings(name, tmp_path):
    """DVC's own function, as `dvc exp run -S` calls it: it refuses a key that is not there."""
    params = tmp_path / "params.yaml"
    params.write_text((REPO / "params.yaml").read_text())
    apply_overrides(params, list(settings_of_all_studies()[name]))
    read = read_params(params)
    assert 7 in (read.cold_start.seed, read.label_sft.seed, read.grpo.seed)


def test_no_two_rows_have_one_experiment():
    names = [t.name for study in STUDIES.values() for t in study.trials([1, 2, 3])]
    assert len(set(names)) == len(names)


def test_a_list_option_takes_several_values():
    given = ["dropout", "--seeds", "1", "2", "--jobs", "2", "--rows", "0.3", "0/2", "--list"]
    assert repeat_options(given) == [
        "dropout", "--seeds", "1", "--seeds", "2", "--jobs", "2",
        "--rows", "0.3", "--rows", "0/2", "--list",
    ]  # fmt: skip
