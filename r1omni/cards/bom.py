"""The ML-BOM (CycloneDX 1.6, JSON): the model and its files, what it came from, data, packages.

cyclonedx-python-lib has no model cards (`modelCard`), so the objects are written here; a test
validates them by that library's strict schema. Source: https://cyclonedx.org/docs/1.6/json/.
"""

import json
import uuid
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from r1omni.cards import uses
from r1omni.cards.facts import Checkpoint, CorpusFacts, Step
from r1omni.lineage import Origin

Json = dict[str, Any]
MODEL: Final = "machine-learning-model"
ROOT: Final = "r1omni"  # the package whose dependencies are listed
NAMESPACE: Final = uuid.UUID("8f0d1c3e-4a0b-5d57-9a52-6d1f0a7c2b11")  # of our serial numbers


def model_bom(
    checkpoint: Checkpoint,
    steps: Sequence[Step],
    released: Sequence[Mapping[str, str]],
    corpora: Sequence[CorpusFacts],
) -> Json:
    """The BOM without packages: a function of the files alone, the same on every machine."""
    lineage, config = checkpoint.lineage, checkpoint.config
    known = {corpus.name: corpus for corpus in corpora}
    data = [_data(name, origin, known.get(name)) for name, origin in lineage.data.items()]
    ancestors = [_ancestor(step) for step in steps[1:]]
    ancestors += [_released(parent) for parent in released]
    toy = [uses.SYNTHETIC] if lineage.trained_on == "synthetic" else []
    model: Json = {
        "type": MODEL,
        "bom-ref": f"model:{checkpoint.name}",
        "name": f"r1-omni-{checkpoint.name}",
        "version": checkpoint.content_hash,
        "description": uses.INTENDED,
        "properties": _step_properties(steps[0]),
        "externalReferences": [{"type": "model-card", "url": "README.md"}],
        "pedigree": {"ancestors": ancestors},
        "components": _files(checkpoint),
        "modelCard": {
            "modelParameters": {
                "approach": {
                    "type": "reinforcement-learning" if steps[0].stage == "grpo" else "supervised"
                },
                "task": "emotion recognition",
                "architectureFamily": str(config.get("model_type", "not recorded")),
                "modelArchitecture": ", ".join(config.get("architectures") or ["not recorded"]),
                "datasets": [{"ref": part["bom-ref"]} for part in data],
                "inputs": [{"format": "video with sound"}],
                "outputs": [{"format": "text: rationale and emotion"}],
            },
            "considerations": {
                "useCases": [uses.INTENDED],
                "technicalLimitations": [*toy, uses.DOUBT],
                "ethicalConsiderations": [
                    {"name": text} for text in (uses.PROHIBITED, uses.HIGH_RISK, uses.INFORM)
                ],
            },
        },
    }
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": model},
        "components": data,
        "dependencies": [{"ref": model["bom-ref"], "dependsOn": [p["bom-ref"] for p in data]}],
    }


def with_packages(bom: Mapping[str, Any]) -> Json:
    """The BOM with r1omni and all packages that it needs, as they are installed here."""
    found = _installed(ROOT)
    packages = [_package(name, found[name][0]) for name in sorted(found)]
    edges = [
        {"ref": _ref(name), "dependsOn": [_ref(other) for other in sorted(found[name][1])]}
        for name in sorted(found)
    ]
    own = bom["metadata"]["component"]["bom-ref"]
    dependencies = [
        {**edge, "dependsOn": [*edge["dependsOn"], _ref(ROOT)]} if edge["ref"] == own else edge
        for edge in bom["dependencies"]
    ]
    return {
        **bom,
        "components": [*bom["components"], *packages],
        "dependencies": [*dependencies, *edges],
    }


def render_bom(bom: Mapping[str, Any]) -> str:
    """The BOM as JSON. Its serial number is made of its content, and it has no time."""
    plain = {key: value for key, value in bom.items() if key != "serialNumber"}
    number = uuid.uuid5(NAMESPACE, json.dumps(plain, sort_keys=True))
    text = json.dumps({**plain, "serialNumber": f"urn:uuid:{number}"}, indent=1, sort_keys=True)
    return text + "\n"


def read_bom(path: Path) -> Json:
    """A BOM of the stage `cards`. Raises ValueError, naming the file, for anything else."""
    try:
        bom = json.loads(path.read_text(encoding="utf-8"))
        if bom["bomFormat"] != "CycloneDX" or bom["metadata"]["component"]["type"] != MODEL:
            raise ValueError("is about no model")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a BOM of the stage `cards`: {error!r}") from error
    return dict(bom)


def _data(name: str, origin: Origin, corpus: CorpusFacts | None) -> Json:
    """One corpus that the model or an ancestor was trained on; its hash is the manifest's."""
    people = {"synthetic": "none: rendered", "unknown": "not recorded"}
    part: Json = {
        "type": "data",
        "bom-ref": f"data:{name}",
        "name": name,
        "data": [
            {
                "type": "dataset",
                "name": name,
                "classification": origin.data,
                "sensitiveData": [people.get(origin.data, "faces and voices of people")],
            }
        ],
        "properties": [_property(key, getattr(origin, key)) for key in ("shortcut", "seed")],
    }
    if corpus is None:
        return {**part, "properties": [*part["properties"], _property("manifest", None)]}
    return {
        **part,
        "hashes": [{"alg": "SHA-256", "content": corpus.sha256}],
        "properties": [*part["properties"], _property("manifest", corpus.manifest.name)],
    }


def _files(checkpoint: Checkpoint) -> list[Json]:
    return [
        {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
        for name, digest in checkpoint.files.items()
    ]


def _ancestor(step: Step) -> Json:
    return {
        "type": MODEL,
        "name": f"r1-omni-{step.stage}",
        "version": step.content_hash or "not recorded",
        "properties": _step_properties(step),
        "components": [] if step.checkpoint is None else _files(step.checkpoint),
    }


def _released(parent: Mapping[str, str]) -> Json:
    return {
        "type": MODEL,
        "name": parent["repo"],
        "version": parent["commit"],
        "purl": f"pkg:huggingface/{quote(parent['repo'])}@{parent['commit'].lower()}",
    }


def _step_properties(step: Step) -> list[Json]:
    values = {
        "stage": step.stage,
        "seed": step.seed,
        "fold": step.fold,
        "code": step.code,
        "params_hash": step.params_hash,
        "params": json.dumps(step.params, sort_keys=True),
        "trained_on": json.dumps(step.trained_on, sort_keys=True),
    }
    return [_property(key, value) for key, value in values.items()]


def _property(key: str, value: object) -> Json:
    return {"name": f"r1omni:{key}", "value": "not recorded" if value is None else str(value)}


def _installed(root: str) -> dict[str, tuple[Distribution | None, set[str]]]:
    """Package -> its installed distribution (None: it is not installed) and what it needs."""
    found: dict[str, tuple[Distribution | None, set[str]]] = {}
    queue: deque[tuple[str, frozenset[str]]] = deque([(root, frozenset())])
    seen = set(queue)
    while queue:
        name, extras = queue.popleft()
        try:
            own: Distribution | None = distribution(name)
        except PackageNotFoundError:
            own = None
        _, needs = found.setdefault(name, (own, set()))
        for requirement in _requirements(own, extras):
            other = canonicalize_name(requirement.name), frozenset(requirement.extras)
            needs.add(other[0])
            if other not in seen:
                seen.add(other)
                queue.append(other)
    return found


def _requirements(own: Distribution | None, extras: Iterable[str]) -> list[Requirement]:
    lines = [] if own is None else own.requires or []
    asked = [{"extra": extra} for extra in ("", *extras)]
    return [
        requirement
        for requirement in map(Requirement, lines)
        if requirement.marker is None or any(map(requirement.marker.evaluate, asked))
    ]


def _ref(name: str) -> str:
    return f"package:{name}"


def _package(name: str, found: Distribution | None) -> Json:
    part: Json = {"type": "library", "bom-ref": _ref(name), "name": name}
    if found is None:
        return {**part, "properties": [_property("installed", "no")]}
    part["version"] = found.version
    if name == ROOT:  # the package index has no r1omni of ours
        part["type"] = "application"
    else:
        part["purl"] = f"pkg:pypi/{name}@{quote(found.version)}"
    if licenses := _licenses(found):
        part["licenses"] = licenses
    return part


def _licenses(found: Distribution) -> list[Json]:
    """As the package's metadata has them: an SPDX expression, else names; empty if it has none."""
    metadata = found.metadata
    if "License-Expression" in metadata:
        return [{"expression": metadata["License-Expression"]}]
    names = [
        line.rpartition(" :: ")[2]
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License :: ") and line != "License :: OSI Approved"
    ]
    text = metadata["License"].strip() if "License" in metadata else ""
    if not names and text and "\n" not in text and len(text) < 100:  # some have the whole licence
        names = [text]
    return [{"license": {"name": name}} for name in names]
