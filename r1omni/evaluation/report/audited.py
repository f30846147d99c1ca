"""The audits that the report draws: every model's results and clips, in the order of Table 1."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from markupsafe import Markup

from r1omni.evaluation.audit_results import (
    ALL,
    AuditedClip,
    AuditResults,
    Measured,
    read_audit,
    read_audited_clips,
)
from r1omni.evaluation.report.paper import CORPORA, ROWS
from r1omni.evaluation.report.table1 import MISSING
from r1omni.evaluation.report.tables import AFTER, BEFORE, Table, TableCell

NAMES: Final[Mapping[str, str]] = {
    "base": "base", "cold_start": "cold start", "label_sft": "label SFT", "grpo": "GRPO",
}  # fmt: skip
# In a sentence.
SAID: Final[Mapping[str, str]] = {"base": "the base model", "cold_start": "the cold start"}


@dataclass(frozen=True)
class Audited:
    """One model's audit."""

    results: AuditResults
    clips: tuple[AuditedClip, ...]

    @property
    def model(self) -> str:
        """The checkpoint's name."""
        return self.results.model

    @property
    def name(self) -> str:
        """The model's name in words."""
        return NAMES.get(self.model, self.model)

    @property
    def said(self) -> str:
        """The model's name inside a sentence."""
        return SAID.get(self.model, self.name)

    @property
    def tone(self) -> str:
        """The CSS class of the model's colour."""
        return f"m-{self.model}" if self.model in NAMES else "m-other"

    def find(self, key: str) -> Measured | None:
        """The number of a key over all corpora; None if it was not measured."""
        return self.results.find(key)


@dataclass(frozen=True)
class Panel:
    """One drawing of a picture, with a few words on it."""

    svg: Markup
    words: str = ""


@dataclass(frozen=True)
class Key:
    """What one entry of a legend shows: a mark's CSS classes, and words."""

    tone: str
    words: str


@dataclass(frozen=True)
class Picture:
    """A picture: a sentence that says what it shows, its drawings, and its numbers as a table.

    Without drawings `note` says what is missing.
    """

    id: str
    title: str
    note: str
    panels: tuple[Panel, ...]
    table: Table
    legend: tuple[Key, ...] = ()


def read_audits(folder: Path) -> list[Audited]:
    """The audits of a folder with MODEL.json and MODEL.parquet, in the order of Table 1.

    Raises ValueError, naming the file, for a missing folder, a file that is none, and the results
    of another model than the file's name says.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected the audits, MODEL.json each")
    found = {}
    for path in sorted(folder.glob("*.json")):
        results = read_audit(path)
        if results.model != path.stem:
            raise ValueError(f"{path}: model: is {results.model!r}, expected {path.stem!r}")
        clips = read_audited_clips(path.with_suffix(".parquet"))
        found[path.stem] = Audited(results, tuple(clips))
    known = [row.model for row in ROWS if row.model in found]
    return [found[model] for model in known + sorted(set(found) - set(known))]


def before_and_after(audits: Sequence[Audited]) -> list[Audited]:
    """The audits of the cold start and GRPO, if they are there."""
    return [audit for audit in audits if audit.model in (BEFORE, AFTER)]


def last(audits: Sequence[Audited], key: str) -> tuple[Audited, Measured] | None:
    """The last model that has a number for the key, and the number."""
    having = [(audit, found) for audit in audits if (found := audit.find(key))]
    return having[-1] if having else None


def percent(found: Measured | float) -> str:
    """ "52 %"; a value between 0 and 10 % has a decimal."""
    value = 100 * (found.value if isinstance(found, Measured) else found)
    return f"{value:.1f} %" if 0 < abs(value) < 9.95 else f"{value:.0f} %"


def key_table(audits: Sequence[Audited], keys: Iterable[tuple[str, str]], caption: str) -> Table:
    """The numbers of some keys, each with words for it, for all corpora and for each one.

    Percent with intervals and n; keys without a number are left out.
    """
    shown = [audit for audit in audits if audit.results.corpora]
    corpora = dict.fromkeys(c for audit in shown for c in audit.results.corpora if c != ALL)
    rows = []
    for key, words in keys:
        for corpus in (ALL, *corpora):
            cells = [audit.results.find(key, corpus) for audit in shown]
            if any(cells):
                name = words if corpus == ALL else f"{words}, {CORPORA.get(corpus, corpus)}"
                rows.append((name, tuple(TableCell(number_text(cell)) for cell in cells)))
    said = f"{caption} In brackets: the interval; n: clips or claims."
    return Table(said, ("percent", *(audit.name for audit in shown)), tuple(rows))


def number_text(found: Measured | None, scale: float = 100) -> str:
    """ "51.7 [50.0, 53.3] n 480"; a dash if it was not measured."""
    if found is None:
        return MISSING
    text = f"{scale * found.value:.1f}"
    if found.low is not None and found.high is not None:
        text += f" [{scale * found.low:.1f}, {scale * found.high:.1f}]"
    return f"{text} n {found.n}"
