"""A YAML file of params as it was written: what is wrong with it is said with its line."""

from pathlib import Path
from typing import Any

import yaml


class ParamsError(ValueError):
    """params.yaml is not what the program expects; the message names file, line and key."""


def read_yaml(path: Path) -> tuple[yaml.Node | None, Any]:
    """The file as PyYAML's node, which knows lines, and as plain values.

    Raises ParamsError for a file that is missing, is not YAML in UTF-8, or holds a key twice.
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
        raise ParamsError(f"{path}:{line}: byte {byte:#04x} is no UTF-8") from error
    try:
        node = yaml.compose(text, Loader=_UniqueKeys)
        values = yaml.load(text, Loader=_UniqueKeys)
    except _KeyTwice as error:
        raise ParamsError(f"{path}:{error}") from error
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: not valid YAML: {error}") from error
    return node, values


def line_of(node: yaml.Node | None, keys: list[str]) -> int:
    """The line of the deepest key that is there, 1 where none is."""
    line = 1
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        found = next(((k, v) for k, v in node.value if str(k.value) == key), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


class _KeyTwice(ValueError):
    """A key that stands twice in one mapping; the message begins with its line."""


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice, where PyYAML would let the last one win."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = key.value if isinstance(key, yaml.ScalarNode) else str(key)
            if name in lines:
                raise _KeyTwice(f"{line}: {name}: stands twice; first in line {lines[name]}")
            lines[name] = line
        return node
