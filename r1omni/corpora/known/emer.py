"""EMER: free-text reasons joined with open-vocabulary labels (Lian et al. 2023, arXiv 2306.15401).

v2 is `final-EMER-reason.csv` with `name,chinese,english`; v1 has
`names,emotions,subtitles,reasons`. The labels stand in a second table `name,openset`, a Python list
of one to nine words a clip.

Tables are known by their headers, since nobody agrees on their names.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from r1omni.corpora.clip import Reject
from r1omni.corpora.ingestion.lists import CorpusError, Listed, read_csv, read_text, reject, shown
from r1omni.corpora.record import Corpus
from r1omni.emotions import EMOTIONS, canonical

_V2 = ("name", "chinese", "english")
_V1 = ("names", "emotions", "subtitles", "reasons")
_LABELS = ("name", "openset")
_FOLDERS = (".", "video", "videos", "clips", "EMER", "data/video", "data/videos", "data/clips")
_NAME = re.compile(r"[\w-]+(\.(mp4|avi))?", re.IGNORECASE | re.ASCII)


def read_rows(root: Path, fold: int) -> Iterator[Listed | Reject]:
    """Every row of the table of reasons, all train clips; EMER has no folds.

    The label is the first open-vocabulary word that emotions.py knows. Raises CorpusError if a
    table is missing, or tables of both versions are there: which one is meant is ambiguous.
    """
    del fold
    tables = {path: _header(path) for path in sorted(root.glob("*.csv"))}
    labels_path = _with_columns(tables, _LABELS)
    reasons_v2, reasons_v1 = _with_columns(tables, _V2), _with_columns(tables, _V1)
    if reasons_v2 is None and reasons_v1 is None:
        raise CorpusError(
            f"{root}: no table of reasons; expected final-EMER-reason.csv with {','.join(_V2)} "
            f"(or EMER v1's {','.join(_V1)}); found {_found(tables)}"
        )
    if reasons_v2 is not None and reasons_v1 is not None:
        raise CorpusError(
            f"{root}: two tables of reasons, {reasons_v2.name} ({','.join(_V2)}) and "
            f"{reasons_v1.name} (EMER v1's {','.join(_V1)}); expected one version in a root: "
            "their rationales differ; move one of the files away"
        )
    if labels_path is None and reasons_v2 is not None:
        raise CorpusError(
            f"{root}: no table of open-vocabulary labels; expected a csv with "
            f"{','.join(_LABELS)}; found {_found(tables)}"
        )
    labels = _read_labels(labels_path) if labels_path else None
    if reasons_v2 is not None:
        yield from _read_reasons(reasons_v2, ("name", "english", "chinese"), labels)
    elif reasons_v1 is not None:
        yield from _read_reasons(reasons_v1, ("names", "reasons", "emotions"), labels)


def read_openset(text: str) -> list[str] | None:
    """The words of a Python list literal of strings, or None if `text` is none."""
    try:
        words = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    is_words = isinstance(words, list) and all(isinstance(word, str) for word in words)
    return words if is_words else None


@dataclass(frozen=True)
class _Labels:
    """The second table: each name's place and list; `broken` holds the lines of malformed rows."""

    table: str
    rows: dict[str, tuple[str, str]]
    broken: tuple[int, ...]


def _read_labels(path: Path) -> _Labels:
    rows: dict[str, tuple[str, str]] = {}
    broken: list[int] = []
    for line, cells in read_csv(path, _LABELS):
        if cells is None:
            broken.append(line)
        else:
            rows.setdefault(_stem(cells[0]), (f"{path.name}:{line}", cells[1]))
    return _Labels(path.name, rows, tuple(broken))


def _read_reasons(
    path: Path, columns: tuple[str, str, str], labels: _Labels | None
) -> Iterator[Listed | Reject]:
    """Rows of name, rationale and a third column: v2's other rationale, or v1's labels."""
    for line, cells in read_csv(path, columns):
        where = f"{path.name}:{line}"
        if cells is None or not cells[0]:
            yield reject("emer", where, "malformed_row", f"expected {','.join(columns)}")
            continue
        name, rationale, other = cells
        if labels is None:  # v1 without a second table
            words = read_openset(other) or re.split(r"[,;/]", other)
            yield _read_row(name, rationale, words, where)
        else:
            yield _read_row(name, rationale or other, _words(name, labels), where)


def _words(name: str, labels: _Labels) -> list[str] | str:
    """The clip's open-vocabulary labels, or why it has none."""
    place, openset = labels.rows.get(_stem(name), ("", ""))
    if not place:
        broken = f" (malformed: line {', '.join(map(str, labels.broken))})" if labels.broken else ""
        return f"{labels.table} has no row for {shown(name)}{broken}; expected {','.join(_LABELS)}"
    words = read_openset(openset)
    if words is None:
        return f"{place}: openset {shown(openset)}; expected a list like ['happy', 'excited']"
    return words


def _read_row(name: str, rationale: str, words: list[str] | str, where: str) -> Listed | Reject:
    stem = _stem(name)
    if "/" in name or "\\" in name or ".." in name:
        return reject("emer", where, "escapes_root", f"{shown(name)} is no bare clip name", name)
    if _NAME.fullmatch(name) is None or not rationale:
        detail = f"name {shown(name)}, rationale {shown(rationale)}; expected sample_N and a text"
        return reject("emer", where, "malformed_row", detail, name)
    if isinstance(words, str):
        return reject("emer", where, "malformed_row", words, name)
    label = next(filter(None, map(canonical, words)), None)
    if label is None:
        detail = f"none of {shown(', '.join(words))} is a known label; known: {', '.join(EMOTIONS)}"
        return reject("emer", where, "unknown_label", detail, name)
    candidates = tuple(f"{folder}/{stem}{suffix}" for folder in _FOLDERS
                       for suffix in (".avi", ".mp4"))  # fmt: skip
    return Listed(
        f"emer/{stem}", candidates, label, "train", where, rationale=rationale, anywhere=True
    )


def _stem(name: str) -> str:
    return re.sub(r"\.(mp4|avi)$", "", name, flags=re.IGNORECASE)


def _header(path: Path) -> list[str]:
    return [name.strip().strip('"') for name in read_text(path).partition("\n")[0].split(",")]


def _with_columns(tables: dict[Path, list[str]], columns: tuple[str, ...]) -> Path | None:
    return next((path for path, header in tables.items() if set(columns) <= set(header)), None)


def _found(tables: dict[Path, list[str]]) -> str:
    return "; ".join(f"{p.name} with {','.join(h)[:60]}" for p, h in tables.items()) or "no csv"


CORPUS: Final = Corpus(  # counts: arXiv 2306.15401
    name="emer",
    title="EMER",
    about="EMER: 332 clips with reasons (v2), 100 in v1",
    ask="https://github.com/zeroQiaoba/AffectGPT; its clips are MER2023's, "
    "http://merchallenge.cn (signed agreement)",
    layout="final-EMER-reason.csv, a csv with name,openset, and sample_XXXXXXXX.avi or .mp4",
    read_rows=read_rows,
    splits=("train",),
    has_rationales=True,
    rows=(332, 232, 100),
)
