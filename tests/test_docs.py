"""The documents against the code: links, commands, params keys, files, generated pages."""

import doctest
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import typer
import yaml
from dvc.utils.serialize import parse_yaml

from r1omni.cli import app
from r1omni.config import PROFILES
from r1omni.section import Section
from r1omni.training_config import BUILT_IN_REWARDS

REPO = Path(__file__).resolve().parents[1]
DOCS = REPO / "docs"
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=REPO, capture_output=True, text=True, check=True,
).stdout.splitlines()  # fmt: skip
PAGES = sorted(
    REPO / name for name in TRACKED
    if name.endswith(".md") and (name.startswith("docs/") or "/" not in name or "data/" in name)
)  # fmt: skip
GENERATED = ("docs/reference/modules.md", "docs/reference/cli.md")  # made of code, not of names
WRITTEN = [page for page in PAGES if str(page.relative_to(REPO)) not in GENERATED]
TOPS = {name.split("/")[0] for name in TRACKED if "/" in name}
# Made by a run, outside of DVC's outputs.
MADE = (".dvc/cache", ".state", ".prefect", ".sweep", ".venv", "mlflow.db", "mlartifacts", "site",
        "data/evaluations", "data/raw", "data/synthetic", "params/paper.yaml")  # fmt: skip
SUFFIXES = ("md", "py", "yaml", "yml", "toml", "json", "jsonl", "parquet", "csv", "html", "txt",
            "png", "mp4", "wav", "lock", "db", "bin", "safetensors", "cff", "xlsx",
            "zip")  # fmt: skip


def name_of(page: Path) -> str:
    return str(page.relative_to(REPO))


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)
written = pytest.mark.parametrize("page", WRITTEN, ids=name_of)


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and text of every fenced block."""
    for match in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```", text, flags=re.M | re.S):
        yield match[2], match[3]


def spans(text: str) -> list[str]:
    """What stands in backticks outside of blocks."""
    outside = re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S)
    return [" ".join(s.split()) for s in re.findall(r"`([^`]+)`", outside)]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every command line, in bash blocks and in backticks."""
    lines = list(spans(text))
    for language, block in blocks(text):
        if language == "bash":
            lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        for part in re.split(r"&&|;|\|\|", line.split(" #")[0]):
            try:
                words = shlex.split(part)
            except ValueError:  # a span with an apostrophe is no command
                continue
            if words:
                yield words


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = []
    for heading in re.findall(r"^#+ +(.+)$", text, flags=re.M):
        slug = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        found.append(re.sub(r"[\s]+", "-", slug))
    return frozenset(found)


@pages
def test_every_relative_link_and_anchor_resolves(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.is_file(), f"{page}: {target}: no such file"
        assert not anchor or anchor in anchors(linked), f"{page}: {target}: no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_relative_to(DOCS)], ids=name_of)
def test_a_page_of_the_site_links_to_nothing_outside_of_it(page):
    for target in re.findall(r"\]\(([^)#\s]+)", without_code(page.read_text(encoding="utf-8"))):
        inside = re.match(r"[a-z]+:", target) or (page.parent / target).resolve()
        assert not isinstance(inside, Path) or inside.is_relative_to(DOCS), f"{page}: {target}"


def test_every_page_stands_in_the_navigation_once():
    def names(entries: object) -> Iterator[str]:
        if isinstance(entries, str):
            yield entries
        else:
            for entry in entries.values() if isinstance(entries, dict) else entries:
                yield from names(entry)

    listed = list(names(yaml.safe_load((REPO / "mkdocs.yml").read_text())["nav"]))
    there = [str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)]
    assert sorted(listed) == sorted(there)


@pages
def test_every_make_target_exists(page):
    known = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), flags=re.M))
    for words in commands(page.read_text(encoding="utf-8")):
        if words[0] == "make" and len(words) > 1:
            assert words[1] in known, f"{page}: make {words[1]}"


@pages
def test_every_command_of_ours_and_its_options_exist(page):
    root = typer.main.get_command(app)
    for words in commands(page.read_text(encoding="utf-8")):
        if words[:3] == ["python", "-m", "r1omni"]:
            words = words[2:]
        if words[0] != "r1omni" or len(words) == 1:
            continue
        if words[1].startswith("-"):
            known, given = options(root), words[1:]
        elif words[1].isupper():
            continue  # `r1omni STAGE`
        else:
            assert words[1] in root.commands, f"{page}: r1omni {words[1]}"
            known, given = options(root.commands[words[1]]), words[2:]
        for word in given:
            if re.match(r"--?[a-z]", word):
                assert word.split("=")[0] in known, f"{page}: {' '.join(words)}: {word}"


def options(command: click.Command) -> set[str]:
    return {"--help", *(name for p in command.params for name in [*p.opts, *p.secondary_opts])}


@written
def test_every_params_key_and_dotted_name_exists(page):
    text = page.read_text(encoding="utf-8")
    dotted = [s.split(":")[0] for s in spans(text) if re.fullmatch(r"[\w.]+(: .*)?", s)]
    settings = re.findall(r"(?:-S|--set-param) +([\w.]+)=", text)
    for name in [*dotted, *settings]:
        if "." not in name.strip(".") or name.rpartition(".")[2] in SUFFIXES:
            continue
        if re.fullmatch(r"[\d.]+", name) or name.startswith("."):
            continue
        assert is_param(name) or is_python(name), f"{page}: {name} is no params key and no name"


def is_param(name: str) -> bool:
    return any(is_key(name, profile) for profile in PROFILES.values())


def is_key(name: str, kind: object) -> bool:
    for part in name.split("."):
        arguments = getattr(kind, "__args__", ())
        if isinstance(kind, type) and part in getattr(kind, "model_fields", {}):
            kind = kind.model_fields[part].annotation
        elif len(arguments) == 2:  # NAME -> section, or reward -> weight
            kind = arguments[1]
        else:
            return False
    return True


def is_python(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        return all(hasattr(found := getattr(found, p), "__class__") for p in parts[end:])
    return False


@written
def test_every_file_that_is_named_exists_or_is_made_by_a_stage(page):
    text = page.read_text(encoding="utf-8")
    words = [word for s in spans(text) for word in s.split()]
    words += [word for kind, block in blocks(text) if kind == "bash" for word in block.split()]
    for word in words:
        name = word.strip("\"',:;()").removeprefix("./").removeprefix("$PWD/").rstrip("/")
        root = name.split("/")[0]
        if not re.fullmatch(r"[\w./-]+", name) or "/" not in name or root not in {*TOPS, "site"}:
            continue
        if not (REPO / name).exists():
            assert is_made(name), f"{page}: {name}: in no commit and made by no stage"


@cache
def outputs() -> frozenset[str]:
    """Every path that dvc.yaml's stages write, `${…}` as any name."""
    text = (REPO / "dvc.yaml").read_text()
    return frozenset(re.findall(r"(data/[\w./${}-]+)", text))


def is_made(name: str) -> bool:
    """Whether a stage writes it, or something in it, or it lies in something that one writes."""
    if name.startswith(MADE):
        return True
    for out in outputs():
        pattern = re.sub(r"\\\$\\\{\w+\\\}", r"[\\w-]+", re.escape(out))
        if re.match(rf"{pattern}(/|$)", name) or out.startswith(f"{name}/"):
            return True
    return False


@pytest.mark.parametrize(
    "page", ["reference/params.md", "reference/cli.md", "reference/modules.md"]
)
def test_the_generated_pages_are_what_the_generator_prints(page):
    generate = load_generator()
    assert set(generate.PAGES) == {
        "reference/params.md",
        "reference/cli.md",
        "reference/modules.md",
    }
    expected = generate.PAGES[page]()
    assert (DOCS / page).read_text(encoding="utf-8") == expected, "run python docs/generate.py"


def test_every_yaml_example_is_read_by_dvc(tmp_path):
    """DVC reads YAML 1.2: a plain key with a colon in {…} is an error there, and none in PyYAML."""
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    examples = [textwrap.dedent(b) for text in texts for kind, b in blocks(text) if kind == "yaml"]
    assert any('"own_rewards:brevity": 0.2' in example for example in examples)
    for example in examples:
        parse_yaml(example, tmp_path / "params.yaml")  # raises YAMLFileCorruptedError


def test_make_clean_and_the_pages_of_files_know_every_folder_that_stages_write():
    stages = yaml.safe_load((REPO / "dvc.yaml").read_text())["stages"].values()
    outs = [out for stage in stages for out in stage.get("do", stage)["outs"]]
    folders = {out.split("/")[1] for out in outs if out.startswith("data/")}
    recipe = re.search(r"^clean:.*\n((?:\t.+\n)+)", (REPO / "Makefile").read_text(), flags=re.M)
    assert recipe is not None
    removed = {name for names in re.findall(r"data/([{\w,}]+)", recipe[1]) for name in
               names.strip("{}").split(",")}  # fmt: skip
    assert {"audit", "judges", "synthetic"} <= folders <= removed
    for page, prefix in (("data/README.md", ""), ("docs/reference/files.md", "data/")):
        text = (REPO / page).read_text(encoding="utf-8")
        for folder in folders:
            assert f"`{prefix}{folder}/`" in text, f"{page}: {prefix}{folder}/"


def test_the_number_that_the_documents_trace_stands_in_table_1():
    table = (REPO / "README.md").read_text(encoding="utf-8").partition("## Table 1")[2]
    page = (DOCS / "how-to/cards.md").read_text(encoding="utf-8")
    traced = [words[2] for words in commands(page) if words[:2] == ["r1omni", "trace"]]
    (number,) = [word for word in traced if "." in word]  # the others name a cell
    assert re.search(rf"(?<![\d.]){re.escape(number)}±", table), number


def test_every_meaning_belongs_to_a_key():
    generate = load_generator()
    found = [cls for profile in PROFILES.values() for cls in sections(profile)]
    classes = {
        base.__name__: base for cls in found for base in cls.__mro__ if issubclass(base, Section)
    }
    keys = {key for cls in classes.values() for key in cls.model_fields}
    for name in yaml.safe_load(generate.MEANINGS.read_text(encoding="utf-8")):
        cls, dot, key = name.rpartition(".")
        assert key in (classes[cls].model_fields if dot else keys), name


def sections(kind: object) -> Iterator[type]:
    for inner in getattr(kind, "__args__", ()):
        yield from sections(inner)
    if isinstance(kind, type) and hasattr(kind, "model_fields"):
        yield kind
        for field in kind.model_fields.values():
            yield from sections(field.annotation)


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_of_the_python_page_print_what_it_says():
    results = doctest.testfile(str(REPO / "docs/reference/python.md"), module_relative=False)
    assert results.attempted > 15
    assert results.failed == 0


def test_every_metric_key_that_is_documented_is_in_the_code():
    code = "".join(p.read_text(encoding="utf-8") for p in (REPO / "r1omni").rglob("*.py"))
    logged = set(re.findall(r"\"((?:reward|rollout|train|optim|time|held_out)/\w+)\"", code))
    rewards = {f"reward/{name}" for name in BUILT_IN_REWARDS}
    text = (REPO / "docs/reference/metrics.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:reward|rollout|train|optim|time|held_out)/\w+)`", text))
    assert named - rewards == logged - rewards
    assert {"reward/accuracy", "reward/format"} <= named & rewards


def test_the_readme_is_short_and_says_that_its_table_is_synthetic():
    text = (REPO / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    assert "## Table 1 (synthetic)" in text
    assert text.count("(synthetic)") >= 4


def test_version_and_licence_are_the_same_everywhere():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (REPO / "LICENSE").read_text()
    assert "2503.05379" in str(citation["preferred-citation"])


def test_the_generator_writes_nothing_when_it_is_imported(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import runpy; runpy.run_path('docs/generate.py')"],
        cwd=REPO, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == ""
