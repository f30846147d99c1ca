"""The model card: what Hugging Face reads of it, what it says, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from made_up_project import CLIPS, WEIGHTS, cards_of, write_checkpoints, write_project

from r1omni.cards.audited import audit_metrics
from r1omni.corpora.clip import write_manifest
from r1omni.evaluation.audit_results import AuditResults, Measured, write_audit
from r1omni.lineage import Data, Origin
from r1omni.tracking.provenance import content_hash


def test_hugging_face_reads_the_metrics_with_their_intervals(project: Path) -> None:
    card = ModelCard.load(cards_of(project) / "grpo/README.md")
    assert card.data.model_name == "r1-omni grpo"
    assert card.data.library_name == "r1omni"
    assert card.data.license is None  # no licence of the weights is recorded
    war, uar = card.data.eval_results
    assert (war.dataset_name, war.metric_name, war.metric_value) == (
        "DFEW (synthetic)",
        "WAR",
        0.75,
    )
    assert (uar.metric_name, uar.metric_value) == ("UAR", pytest.approx(2 / 3))
    measured = json.loads(Path("data/reports/metrics.json").read_text())["grpo"]["dfew"]
    assert war.metric_args == {"n": 4, "confidence": 0.95, "interval": measured["war_ci"]}


def test_the_page_says_what_it_is_what_made_it_and_what_it_must_not_be_used_for(
    project: Path,
) -> None:
    page = (cards_of(project) / "grpo/README.md").read_text()
    assert "> **A toy.** Trained on rendered faces" in page
    assert "prohibited, except for medical or safety reasons" in page
    for place in (
        "Article 5(1)(f)",
        "Article 50(3)",
        "Annex III, point 1(c)",
        "/eli/reg/2024/1689",
    ):
        assert place in page
    hashes = {stage: content_hash(Path("data/checkpoints") / stage) for stage in ("base", "grpo")}
    assert (
        f"| grpo | dfew 2 | 1 | 7 | `c0dec0dec0de` | `grpo-params` | `{hashes['grpo']}` |" in page
    )
    made = f"none | 7 | `c0dec0dec0de` | `base-params` | `{hashes['base']}` |"
    assert f"| base | not recorded | {made}" in page
    assert "| DFEW | synthetic, shortcut 0.5, seed 1 | train, test | 2 | 4 | 1 | no one" in page
    assert "75.0 (" in page
    assert "angry 0, happy 100, sad 100" in page
    assert "Not measured." in (project / "data/cards/base/README.md").read_text()


def test_a_card_has_the_main_numbers_of_the_audit(project: Path) -> None:
    assert (
        "## What its explanations are worth\n\nNot audited.\n"
        in (cards_of(project) / "grpo/README.md").read_text()
    )
    numbers = {
        "rationale.reversed_changed": Measured(value=0.0233, low=0.01, high=0.0402, n=344),
        "grounding.face.specificity": Measured(value=0.4, n=360),
        "certainty.face.auc": Measured(value=0.7, n=360),  # not a main one
    }
    folder = project / "data/audit"
    for stage in WEIGHTS:
        results = AuditResults(model=stage, mode="reasoned", corpora={"all": numbers})
        write_audit(results, folder / f"{stage}.json")
    page = (cards_of(project, folder) / "grpo/README.md").read_text()
    reversed_row = "| answers that change if every claim is reversed "
    assert f"{reversed_row}| 2.3 (1.0 to 4.0) | 344 |\n" in page
    assert "(0 recites, 100 describes) | 40.0 | 360 |\n" in page
    assert "70.0" not in page and "right in silence" not in page
    assert audit_metrics(results) == {
        "audit/rationale.reversed_changed": 0.0233, "audit/grounding.face.specificity": 0.4,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"none/base.json: no such file"):
        cards_of(project, project / "none")


def test_equal_files_are_equal_bytes_wherever_the_project_lies(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("another machine")
    write_project(other)
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in cards_of(root).rglob("*.*")}
        for root in (project, other)
    )
    assert len(first) == 7  # a card and a BOM for each of three models, and a data card
    assert first == second


@pytest.mark.parametrize("kind", ["real", "mixed", "unknown"])
def test_a_model_of_real_clips_is_no_toy_and_says_whom_to_ask(project: Path, kind: Data) -> None:
    shutil.rmtree("data/checkpoints")
    write_checkpoints(Path("data"), Origin(kind))
    write_manifest(CLIPS, Path("data/manifests/dfew.parquet"), note={"data": kind})
    Path("data/reports/metrics.json").write_text("{}")
    page = (cards_of(project) / "grpo/README.md").read_text()
    assert "A toy" not in page
    assert "https://dfew-dataset.github.io (signed agreement; not to be passed on)" in page
    assert "Consent of the people in real clips: not recorded here." in page


def test_the_commit_of_a_released_parent_is_named(project: Path) -> None:
    record = {"repo": "StarJiaxing/HumanOmni-0.5B", "revision": "main", "commit": "ab12" * 10}
    tower = {"repo": "openai/whisper-large-v3", "revision": "main", "commit": "cd34" * 10}
    Path("data/raw/base").mkdir(parents=True)
    text = json.dumps({**record, "towers": {"audio": tower}})
    Path("data/raw/base/fetched.json").write_text(text)
    cards = cards_of(project)
    card = ModelCard.load(cards / "grpo/README.md")
    assert card.data.base_model == ["StarJiaxing/HumanOmni-0.5B", "openai/whisper-large-v3"]
    assert "humanomni" in card.data.tags
    commit = f"commit `{tower['commit']}`"
    assert f"| released: {tower['repo']} | not recorded | none | not recorded | {commit}" in str(
        card
    )
    bom = json.loads((cards / "cold_start/bom.json").read_text())
    ancestors = bom["metadata"]["component"]["pedigree"]["ancestors"]
    assert [a["name"] for a in ancestors] == [
        "r1-omni-base", "StarJiaxing/HumanOmni-0.5B", "openai/whisper-large-v3"
    ]  # fmt: skip
    assert ancestors[1]["version"] == "ab12" * 10


def test_metrics_of_another_checkpoint_are_refused(project: Path) -> None:
    path = Path("data/reports/metrics.json")
    path.write_text(path.read_text().replace("grpo-params", "other-params"))
    with pytest.raises(ValueError, match="grpo: the metrics on dfew are of another checkpoint"):
        cards_of(project)


def test_markup_in_a_name_is_inert(project: Path) -> None:
    path = Path("data/reports/metrics.json")
    path.write_text(path.read_text().replace('"sad": 1.0', '"<script>sad</script>": 1.0'))
    page = (cards_of(project) / "grpo/README.md").read_text()
    assert "&lt;script&gt;sad" in page
    assert "<script>" not in page
