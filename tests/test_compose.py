"""docker/compose.yaml: its form by the Compose specification; loopback alone; our versions."""

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml


@pytest.fixture(scope="module")
def compose(repo: Path) -> dict[str, Any]:
    return dict(yaml.safe_load((repo / "docker/compose.yaml").read_text()))


def test_it_has_the_form_of_the_compose_specification(compose: dict[str, Any]) -> None:
    schema = files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    validator = jsonschema.validators.validator_for(rules := json.loads(schema.read_text()))(rules)
    assert [error.message for error in validator.iter_errors(compose)] == []
    broken = {**compose, "services": {"mlflow": {"imagine": "python"}}}
    assert not validator.is_valid(broken)


def test_every_port_is_on_loopback_and_no_password_is_written_down(compose: dict[str, Any]) -> None:
    services = compose["services"].values()
    ports = [port for service in services for port in service.get("ports", [])]
    assert len(ports) == 4 and all(port.startswith("127.0.0.1:") for port in ports)
    secrets = [
        value
        for service in services
        for key, value in service["environment"].items()
        if re.search("PASSWORD|SECRET", key)
    ]
    assert len(secrets) == 4 and all(value.startswith("${") for value in secrets)


def test_its_versions_are_those_that_were_tested(repo: Path) -> None:
    named = re.findall(r"[\w-]+==[\w.]+", (repo / "docker/compose.yaml").read_text())
    assert len(named) == 4
    assert set(named) <= set((repo / "constraints.txt").read_text().splitlines())
