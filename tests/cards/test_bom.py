"""The ML-BOM, by CycloneDX's own strict schema."""

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from made_up_project import cards_of

from r1omni.cards.bom import read_bom, render_bom, with_packages


def complaints(text: str) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


def test_the_schema_takes_it_without_and_with_packages(project: Path) -> None:
    path = cards_of(project) / "grpo/bom.json"
    whole = render_bom(with_packages(read_bom(path)))
    assert complaints(path.read_text()) is None
    assert complaints(whole) is None
    assert complaints(whole.replace('"CycloneDX"', '"Cyclone"')) is not None  # it does look


def test_it_names_the_model_its_parents_and_its_data_by_hash(project: Path) -> None:
    bom = read_bom(cards_of(project) / "grpo/bom.json")
    model = bom["metadata"]["component"]
    weights = {
        part["name"]: file["hashes"][0]["content"]
        for part in (model, *model["pedigree"]["ancestors"])
        for file in part["components"]
        if file["name"] == "model.safetensors"
    }
    assert weights == {
        "r1-omni-grpo": hashlib.sha256(b"grpo").hexdigest(),
        "r1-omni-cold_start": hashlib.sha256(b"cold").hexdigest(),
        "r1-omni-base": hashlib.sha256(b"base").hexdigest(),
    }
    assert model["modelCard"]["modelParameters"]["approach"] == {"type": "reinforcement-learning"}
    dfew, generic = bom["components"]
    manifest = Path("data/manifests/dfew.parquet").read_bytes()
    assert dfew["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(manifest).hexdigest()}]
    assert {"name": "r1omni:manifest", "value": "not recorded"} in generic["properties"]


def test_packages_are_the_installed_ones_and_only_what_r1omni_needs(project: Path) -> None:
    bom = with_packages(read_bom(cards_of(project) / "grpo/bom.json"))
    packages = {part["name"]: part for part in bom["components"] if part["type"] == "library"}
    assert packages["torch"]["version"] == version("torch")
    assert packages["numpy"]["purl"] == f"pkg:pypi/numpy@{version('numpy')}"
    assert packages["jinja2"]["licenses"]
    assert not packages.keys() & {"pytest", "mypy", "mlcroissant", "cyclonedx-python-lib"}
    edges = {edge["ref"]: edge["dependsOn"] for edge in bom["dependencies"]}
    assert "package:markupsafe" in edges["package:jinja2"]
    assert "package:r1omni" in edges["model:grpo"]


def test_the_serial_number_is_the_contents(project: Path) -> None:
    bom = read_bom(cards_of(project) / "grpo/bom.json")
    assert render_bom(bom) == Path("data/cards/grpo/bom.json").read_text()
    changed = json.loads(render_bom({**bom, "version": 2}))
    assert changed["serialNumber"] != bom["serialNumber"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"bomFormat": "CycloneDX", "metadata": {}}'])
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bom.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bom\.json: expected a BOM of the stage `cards`"):
        read_bom(path)
