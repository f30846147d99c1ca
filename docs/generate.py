"""The generated pages of docs/reference: `python docs/generate.py` writes them.

- params.md: config.py's classes, with the values of params.yaml and params/paper.yaml, and those of
  the other backbone's sections with the values of params/tiny_qwen.yaml.
- cli.md: `r1omni --help` of every command, by typer's own documentation command.
- modules.md: every module with the first line of its docstring.

tests/test_docs.py checks that the pages equal this output.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

DOCS: Final = Path(__file__).resolve().parent
REPO: Final = DOCS.parent
MEANINGS: Final = DOCS / "meanings.yaml"
WRITTEN: Final = "<!-- Written by `python docs/generate.py`. Do not edit. -->"
PROFILES: Final = {"default": "params.yaml", "paper": "params/paper.yaml"}  # column -> file
QWEN: Final = {"tiny": "params/tiny_qwen.yaml"}
BOUNDS: Final = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}


def render_params() -> str:
    """A heading per section and a row per key: range, default, the paper's value, meaning."""
    from r1omni.config import HumanOmniProfile, QwenOmniProfile

    lines = [
        "# Params", "", WRITTEN, "",
        "Every number of the pipeline is in `params.yaml`. `params/paper.yaml` has the "
        "paper's values under the same keys. An unknown key, a missing key and a value out of "
        "range are errors that name file, line and key. `r1omni/config.py` defines the sections.",
        "",
        "*Machine* marks a key that changes time and memory only. Such a key is not part of the "
        "recipe: a training that was stopped continues after you change it.",
    ]  # fmt: skip
    other = QwenOmniProfile.model_fields
    for name, field in HumanOmniProfile.model_fields.items():
        lines += ["", f"## {name}", "", *_profiled(name, field.annotation, PROFILES)]
        if other[name].annotation is not field.annotation:
            lines += [
                "",
                f"## {name} of Qwen2.5-Omni",
                "",
                "With `model.backbone: qwen2_5_omni`.",
                "",
            ]
            lines += _profiled(name, other[name].annotation, QWEN)
    return "\n".join(lines) + "\n"


def _profiled(name: str, kind: Any, profiles: Mapping[str, str]) -> Iterator[str]:
    """A section with its values in these files."""
    texts = {column: (REPO / file).read_text(encoding="utf-8") for column, file in profiles.items()}
    values = {column: yaml.safe_load(text)[name] for column, text in texts.items()}
    return _section(name, kind, values, next(iter(texts.values())))


def _section(path: str, kind: Any, values: Mapping[str, Any], text: str) -> Iterator[str]:
    """The docstring and the table of a section, then its subsections."""
    named = get_origin(kind) is dict  # NAME -> section
    cls = get_args(kind)[1] if named else kind
    yield " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    if named:
        yield from ("", f"One entry per name: `{path}.NAME`.")
        names = [
            f"`{PROFILES[column]}` has {', '.join(f'`{key}`' for key in value) or 'none'}"
            for column, value in values.items()
        ]
        yield from ("", f"{'; '.join(names)}.")
    columns = ["key", "value", "meaning"] if named else ["key", "value", *values, "meaning"]
    rows = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    below: list[str] = []
    for key, field in cls.model_fields.items():
        own = f"{path}.{key}"
        section = _is_section(field.annotation)
        if section:
            inner = {column: {} if named else v[key] for column, v in values.items()}
            below += ["", f"### {own}", "", *_section(own, field.annotation, inner, text)]
            continue
        shown = [] if named else [_value(value[key]) for value in values.values()]
        meaning = _meaning(cls, key, field, text)
        if key in getattr(cls, "KNOBS", ()):
            meaning = f"{meaning} *Machine.*"
        rows.append(f"| {' | '.join([f'`{key}`', _range(field), *shown, meaning])} |")
    if len(rows) > 2:
        yield from ("", *rows)
    yield from below


def _is_section(kind: Any) -> bool:
    if get_origin(kind) is dict:
        kind = get_args(kind)[1]
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _value(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    return f"`{text.removesuffix('...').strip()}`"


def _range(field: FieldInfo) -> str:
    """The type of a field and its bounds, in words."""
    kind, kinds = field.annotation, []
    options = get_args(kind) if type(None) in get_args(kind) else (kind,)
    for option in options:
        if get_origin(option) is Literal:
            kinds += [f"`{choice}`" for choice in get_args(option)]
        else:
            base = get_args(option)[0] if hasattr(option, "__metadata__") else option
            kinds.append(_type_name(base))
    bounds = [
        f"{sign} {getattr(found, name)}"
        for found in _metadata(field)
        for name, sign in BOUNDS.items()
        if getattr(found, name, None) is not None
    ]
    return ", ".join([" or ".join(kinds), *bounds])


def _metadata(field: FieldInfo) -> Iterator[Any]:
    yield from field.metadata
    for option in get_args(field.annotation):
        for found in getattr(option, "__metadata__", ()):
            yield from getattr(found, "metadata", [found])


def _type_name(kind: Any) -> str:
    names = {int: "integer", float: "number", bool: "true or false", str: "text", Path: "path"}
    if get_origin(kind) in (dict, Mapping) or _is_section(kind):
        return "mapping"
    if get_origin(kind) is tuple:
        return "list"
    return "null" if kind is type(None) else names[kind]


def _meaning(cls: type, key: str, field: FieldInfo, text: str) -> str:
    """The field's description, else that of meanings.yaml, else the comment in the params file.

    In meanings.yaml the key may stand under a class that `cls` extends.

    Raises ValueError, naming the key, where there is none of them.
    """
    known = yaml.safe_load(MEANINGS.read_text(encoding="utf-8"))
    meant = (known.get(f"{kind.__name__}.{key}") for kind in cls.__mro__)
    found = field.description or next(filter(None, meant), None) or known.get(key)
    if found is None:
        comment = re.search(rf"^ *{key}:[^#\n]*# (.*)$", text, re.MULTILINE)
        if comment is None:
            raise ValueError(f"{MEANINGS}: {cls.__name__}.{key} has no meaning there or elsewhere")
        found = comment[1]
    return " ".join(found.split()).replace("|", "\\|")


def render_cli() -> str:
    """The help of every command as Markdown."""
    import click
    import typer
    from typer.cli import get_docs_for_click

    from r1omni.cli import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=click.Context(command), name="r1omni")
    text = text.replace("# `r1omni`\n", f"# Command line\n\n{WRITTEN}\n", 1)
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines()) + "\n"


def render_modules() -> str:
    """A heading per folder, a line per module with the first line of its docstring."""
    lines = ["# Modules", "", WRITTEN]
    tops = ("r1omni", "flows", "benchmarks")
    files = [path for top in tops for path in (REPO / top).rglob("*.py")]
    for folder in sorted({path.parent for path in files}):
        lines += ["", f"## {folder.relative_to(REPO)}/", ""]
        for path in sorted(path for path in files if path.parent == folder):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if docstring:  # an empty __init__.py has none
                lines.append(f"- `{path.name}`: {docstring.splitlines()[0]}")
    return "\n".join(lines) + "\n"


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "reference/params.md": render_params,
    "reference/cli.md": render_cli,
    "reference/modules.md": render_modules,
}

if __name__ == "__main__":
    for page, render in PAGES.items():
        (DOCS / page).write_text(render(), encoding="utf-8")
        sys.stdout.write(f"docs/{page}\n")
