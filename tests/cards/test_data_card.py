"""The data card, as MLCommons' own reader takes it."""

import json
from pathlib import Path

import pytest
from made_up_project import CLIPS, cards_of

from r1omni.corpora.clip import write_manifest

FIELDS = ("clip_id", "path", "sha256", "label", "split")


def test_mlcroissant_takes_the_card_and_reads_the_manifests_rows(project: Path) -> None:
    import mlcroissant  # a quarter of a CPU second, for this file alone

    card = mlcroissant.Dataset(cards_of(project) / "dfew.croissant.json")
    assert not card.metadata.ctx.issues.errors
    missing = sorted(str(issue).split('"')[1] for issue in card.metadata.ctx.issues.warnings)
    # Not known here, so not said: how to cite the corpus, and the day of its publication.
    assert missing == [
        "http://mlcommons.org/croissant/citeAs", "https://schema.org/datePublished"
    ]  # fmt: skip
    rows = [
        tuple(row[f"clips/{name}"].decode() for name in FIELDS) for row in card.records("clips")
    ]
    assert rows == [tuple(getattr(clip, name) for name in FIELDS) for clip in CLIPS]


def test_a_manifest_that_was_changed_is_not_read(project: Path) -> None:
    import mlcroissant  # a quarter of a CPU second, for this file alone

    path = cards_of(project) / "dfew.croissant.json"
    write_manifest(CLIPS[:3], project / "data/manifests/dfew.parquet", note={"data": "synthetic"})
    with pytest.raises(mlcroissant.GenerationError) as error:
        list(mlcroissant.Dataset(path).records("clips"))
    assert "Hash of downloaded file" in str(error.value.__cause__)


def test_a_rendered_corpus_has_no_people_and_says_what_was_rejected(project: Path) -> None:
    card = json.loads((cards_of(project) / "dfew.croissant.json").read_text())
    assert card["description"].startswith("Rendered faces and synthesised voices, no people")
    assert card["license"] == "not recorded"
    assert card["rai:personalSensitiveInformation"] == ["None: no person was recorded."]
    rejected, rules = card["rai:dataPreprocessingProtocol"]
    assert rejected.endswith("Rejected: unreadable 1.")
    assert rules == "All 1 validation rules hold for all corpora together."
    assert "Article 5(1)(f)" in card["rai:dataSocialImpact"]


def test_a_real_corpus_says_whom_to_ask_and_that_consent_is_not_recorded(project: Path) -> None:
    import mlcroissant  # a quarter of a CPU second, for this file alone

    write_manifest(CLIPS, project / "data/manifests/dfew.parquet", note={"data": "real"})
    path = cards_of(project) / "dfew.croissant.json"
    card = json.loads(path.read_text())
    assert not mlcroissant.Dataset(path).metadata.ctx.issues.errors
    assert card["description"].startswith("DFEW: 16,372 film clips")
    assert (
        card["license"] == "https://dfew-dataset.github.io (signed agreement; not to be passed on)"
    )
    assert card["url"] == "https://dfew-dataset.github.io"
    assert "consent is not recorded here" in card["rai:personalSensitiveInformation"][1]
