"""What is known of a corpus: one frozen record, in the corpus's own module (known/)."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from r1omni.corpora.clip import Clip, Reject, Split
from r1omni.corpora.ingestion.lists import Listed
from r1omni.emotions import in_order

Role = Literal["cold_start", "train", "test"]
Adapter = Callable[[Path, int], Iterator[Listed | Reject]]
State = Literal["ok", "missing", "note"]
_MARKS: Mapping[State, str] = {"ok": "✓", "missing": "✗", "note": "·"}


@dataclass(frozen=True)
class Check:
    """One thing that the doctor looked at: `missing` fails the examination, `note` does not."""

    state: State
    text: str

    def __str__(self) -> str:
        return f"{_MARKS[self.state]} {self.text}"


@dataclass(frozen=True)
class Corpus:
    """What is known of a corpus, from its paper and its loaders.

    `name` is the adapter's in params and what the manifest's column `corpus` holds; `title` is for
    tables. `read_rows(root, fold)` yields every row of the corpus's lists, as a clip to be opened
    or as a reject; it opens no media file. `labels`: the closed set of canonical labels, by which
    the corpus is evaluated; None where any known emotion may stand. `ids`: what the lists write ->
    canonical label. `splits`: those that its lists name. `folds`: how many official folds there
    are, 0 for none. `has_rationales`: whether its clips have texts that the cold start learns from.
    `labels_as_found`: the closed set are those of `labels` that its clips have.
    `compound`: whether a clip may have several emotions, and then no single label.

    What a whole copy holds: `folds_rows` rows of the train and the test list of fold 1, 2, …;
    `rows` the sizes that a corpus without folds is known in; `usable` how many of the rows can
    become clips; `label_counts` of fold 1's test list (or of all usable rows); `files` clip files;
    `subjects`. `ask`: where a copy is asked for. `examine`: a further check of the doctor's.
    """

    name: str
    title: str
    about: str
    ask: str
    layout: str
    read_rows: Adapter
    splits: tuple[Split, ...]
    labels: tuple[str, ...] | None = None
    ids: Mapping[str, str] = field(default_factory=dict)
    folds: int = 0
    has_rationales: bool = False
    labels_as_found: bool = False
    compound: bool = False
    folds_rows: tuple[tuple[int, int], ...] = ()
    rows: tuple[int, ...] = ()
    usable: int | None = None
    label_counts: Mapping[str, int] = field(default_factory=dict)
    files: int | None = None
    subjects: int | None = None
    examine: Callable[[Path], Check] | None = None

    def refusal(self, role: Role) -> str | None:
        """Why the corpus cannot be used in this role; None where it can."""
        needed: Split = "test" if role == "test" else "train"
        if needed not in self.splits:
            return f"{self.title} has no {needed} split"
        if role == "cold_start" and not self.has_rationales:
            return f"{self.title} has no rationales, from which the cold start learns"
        if self.compound:
            return f"clips of {self.title} may have several emotions, and no single label"
        if role == "test" and self.labels is None:
            return f"{self.title} has no closed set of labels, by which clips are judged"
        return None


def label_set(corpus: Corpus, clips: Iterable[Clip]) -> tuple[str, ...] | None:
    """The closed set of labels by which these clips of the corpus are judged; None for no such."""
    if corpus.labels is None or not corpus.labels_as_found:
        return corpus.labels
    return in_order(clip.label for clip in clips if clip.label in corpus.labels)
