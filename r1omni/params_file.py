"""Reads params.yaml; errors name file, line and key."""

import os
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from r1omni.config import Params, params_class
from r1omni.corpora.roles import problems


class ParamsError(ValueError):
    """params.yaml is invalid; the message names file, line and key."""


def read_yaml(path: Path) -> tuple[yaml.Node | None, Any]:
    """The file as PyYAML's node, which has line numbers, and as plain values.

    Raises ParamsError for a file that is missing, is not YAML in UTF-8, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ParamsError(
            f"{path}: cannot be read: {error.strerror}; run this in the project's folder, or pass "
            "--params FILE"
        ) from error
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ParamsError(f"{path}:{line}: byte {byte:#04x} is not valid UTF-8") from error
    try:
        node = yaml.compose(text, Loader=_UniqueKeys)
        values = yaml.load(text, Loader=_UniqueKeys)
    except _DuplicateKey as error:
        raise ParamsError(f"{path}:{error}") from error
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    return node, values


def line_of(node: yaml.Node | None, keys: list[str]) -> int:
    """The line of the deepest of `keys` that exists; 1 if none does."""
    line = 1
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((k, v) for k, v in node.value if str(k.value) == key), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


class _DuplicateKey(ValueError):
    """A key occurs twice in one mapping; the message begins with its line."""


class _UniqueKeys(yaml.SafeLoader):
    """Refuses duplicate keys; PyYAML itself would take the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = key.value if isinstance(key, yaml.ScalarNode) else str(key)
            if name in lines:
                raise _DuplicateKey(f"{line}: {name}: occurs twice; first in line {lines[name]}")
            lines[name] = line
        return node


def read_params(path: Path) -> Params:
    """The validated contents of `path`; MLFLOW_TRACKING_URI takes the place of tracking.uri.

    Raises ParamsError, naming file, line, key and the expected value: for a file that is missing or
    is not YAML in UTF-8; for a duplicate, unknown or missing key; for a value that is out of range
    or contradicts another; for corpora that cannot have their roles.
    """
    node, values = read_yaml(path)
    kind = params_class(values)
    try:
        params = kind.model_validate(values)
    except ValidationError as error:
        lines = [_error_line(path, node, dict(e), kind) for e in error.errors()]
        raise ParamsError("\n".join(lines)) from error
    lines = [
        f"{path}:{line_of(node, keys)}: {'.'.join(keys)}: {message}"
        for keys, message in problems(params.corpora)
    ]
    if lines:
        raise ParamsError("\n".join(lines))
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        tracking = params.tracking.model_copy(update={"uri": uri})
        return params.model_copy(update={"tracking": tracking})
    return params


def _error_line(
    path: Path, node: yaml.Node | None, error: dict[str, Any], kind: type[Params]
) -> str:
    keys = [str(k) for k in error["loc"] if k != "[key]"]
    where = f"{path}:{line_of(node, keys)}: {'.'.join(keys) or 'the file'}"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key; known here: {', '.join(_known(kind, keys[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: is missing"
    return f"{where}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"


def _known(kind: type[Params], keys: list[str]) -> list[str]:
    here: Any = kind
    for key in keys:
        if get_origin(here) is dict:
            here = get_args(here)[1]
        elif _is_section(here):
            here = here.model_fields[key].annotation
    return sorted(here.model_fields) if _is_section(here) else []


def _is_section(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)
