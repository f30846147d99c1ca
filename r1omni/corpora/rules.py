"""What must hold for manifests before anything is trained on them, as rules over one table.

A rule checks one column. What concerns several rows (a subject in two splits, a class that is
too small) is counted into a column of its own first, so that every failure has its row.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

import pandas as pd

from r1omni.config import CorpusParams, ValidationParams
from r1omni.corpora.clip import Clip, SoftLabel, Split, read_manifest
from r1omni.corpora.content import group_by_content, likeness
from r1omni.corpora.known import find_corpus, known_names, listed_corpus
from r1omni.corpora.record import label_set
from r1omni.emotions import EMOTIONS

SPLITS: Final[tuple[str, ...]] = get_args(Split)

# The role that needs every label of a closed set -> the split in which it must occur.
_CLOSED: Final[Mapping[str, Split]] = {"train": "train", "test": "test"}
_PRINTS: Final = ("sound_print", "picture_print")
_OPTIONAL: Final = ("label", "fold", "subject", "rationale", "soft_label", "start", "end", *_PRINTS)


@dataclass(frozen=True)
class Labels:
    """What is known of a corpus's labels.

    `known`: those that a clip may have; `may_lack`: whether a clip may have none. Each of them must
    occur in the splits `closed`; none where the corpus has no closed set of labels.
    """

    known: tuple[str, ...]
    may_lack: bool
    closed: tuple[str, ...]


@dataclass(frozen=True)
class Manifests:
    """All rows of the manifests as a table, and what is known of their corpora's labels."""

    table: pd.DataFrame
    labels: Mapping[str, Labels]


@dataclass(frozen=True)
class Rule:
    """What `column` must hold: values in `allowed`, values in bounds, or at least `present`."""

    name: str
    column: str
    text: str
    check: Literal["unique", "allowed", "bounds", "present"]
    allowed: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None


def read_manifests(
    manifests: Sequence[Path], same_sound: float, corpora: Mapping[str, CorpusParams]
) -> Manifests:
    """All rows, with `manifest` (the file's stem) and the columns that the rules check.

    A manifest whose stem is in `corpora` is of that entry. Clips whose sounds are alike by
    `same_sound` have the same number in `content` (content.py). Raises ValueError naming the file
    that is no manifest.
    """
    names = manifest_names(manifests)
    read = [(name, read_manifest(path)) for name, path in zip(names, manifests, strict=True)]
    clips = [(name, clip) for name, found in read for clip in found]
    labels = {
        corpus: _labels(corpus, name, [c for c in found if c.corpus == corpus], corpora)
        for name, found in read
        for corpus in {clip.corpus for clip in found}
    }
    rows = [
        {"manifest": name, "lacks": _lacks(clip, corpora.get(name))} | asdict(clip)
        for name, clip in clips
    ]
    columns = ["manifest", "lacks", *(f.name for f in fields(Clip) if f.name not in _PRINTS)]
    table = pd.DataFrame(rows, columns=columns, dtype=object)
    listed = [clip for _, clip in clips]
    content = group_by_content(listed, same_sound)
    table = table.assign(content=content, copy_of=_name_copies(listed, content))
    for column in ("duration", "fps", "n_frames"):
        table[column] = pd.to_numeric(table[column], errors="coerce")
    return Manifests(_counted(table, labels), labels)


def _labels(
    name: str, manifest: str, clips: Sequence[Clip], corpora: Mapping[str, CorpusParams]
) -> Labels:
    """What is known of the labels of a corpus: by its entry in params, or by its name alone."""
    entry = corpora.get(manifest)
    if entry is None and name not in known_names():
        return Labels(EMOTIONS, False, ())
    corpus = find_corpus(name) if entry is None else listed_corpus(manifest, entry)
    known = label_set(corpus, clips)
    if known is None:
        return Labels(EMOTIONS, True, ())
    judged: tuple[str, ...] = corpus.splits
    if entry is not None:
        judged = tuple(split for role, split in _CLOSED.items() if role in entry.roles)
    return Labels(known, corpus.compound, () if corpus.compound else judged)


def _lacks(clip: Clip, entry: CorpusParams | None) -> str:
    """What the clip lacks of what the roles of its corpus need: "label", "rationale" or nothing."""
    roles = () if entry is None else entry.roles
    needs = set(roles) & ({"test"} if clip.split == "test" else {"cold_start", "train"})
    if needs and clip.label is None:
        return "label"
    return "rationale" if "cold_start" in needs and clip.rationale is None else ""


def manifest_names(manifests: Sequence[Path]) -> list[str]:
    """A short name for each manifest: its stem, or its path where two have one stem."""
    stems = [path.stem for path in manifests]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in manifests]


def build_rules(
    manifests: Sequence[str], read: Manifests, validation: ValidationParams, missing_audio: str
) -> list[Rule]:
    """The rules, in the order in which they are reported."""
    table = read.table
    rules = [
        Rule("unique_clip_id", "clip_id", "no clip stands twice", "unique"),
        Rule("complete", "gaps", "no empty cell where a value is needed", "allowed", ("",)),
        Rule("known_label", "label_is_known", "labels are the corpus's own, in canonical "
             "spelling; only captions and compound emotions may have none", "allowed", (True,)),
        Rule("fit_for_role", "lacks", "clips have the label that their role needs, and for the "
             "cold start a rationale", "allowed", ("",)),
        Rule("known_split", "split", f"splits are {' and '.join(SPLITS)}", "allowed", SPLITS),
        Rule("path_in_root", "path_is_inside", "paths are relative and stay in the corpus root",
             "allowed", (True,)),
        Rule("duration", "duration", f"clips last {validation.min_seconds:g} to "
             f"{validation.max_seconds:g} s",
             "bounds", low=validation.min_seconds, high=validation.max_seconds),
        Rule("has_frames", "n_frames", "clips have frames", "bounds", low=1),
        Rule("frame_rate", "fps", "clips have a frame rate", "bounds", low=0.1, high=1000),
        Rule("subject_in_one_split", "splits_of_subject", "no person or film in two splits of "
             f"a corpus{_unknown_subjects(table)}", "bounds", high=1),
        Rule("content_in_one_split", "splits_of_content", "no clip's content in two splits, of one "
             "corpus or of two, however it is encoded", "bounds", high=1),
        Rule("content_has_one_label", "labels_of_content", "no clip's content under two labels in "
             "a split of a corpus", "bounds", high=1),
        Rule("content_once", "copies_in_split", f"at most {validation.max_copies} clips in a split "
             "of a corpus have the content of another one (validation.max_copies)", "bounds",
             high=validation.max_copies),
        Rule("one_fold", "fold_is_usual", "a corpus comes from one fold", "allowed", (True,)),
        Rule("enough_clips_per_label", "clips_of_label", f"labels have at least "
             f"{validation.min_clips_per_label} clips in each split of a corpus with a closed set "
             "of labels", "bounds",
             low=validation.min_clips_per_label),
        Rule("enough_clips", "clips_of_manifest", f"manifests have at least "
             f"{validation.min_clips} clips", "bounds",
             low=validation.min_clips),
    ]  # fmt: skip
    if missing_audio == "reject":
        audio = Rule("has_audio", "has_audio", "clips have sound", "allowed", (True,))
        rules.insert(9, audio)
    if validation.min_clips > 0:
        text = "no manifest is empty"
        rules.append(Rule("no_empty_manifest", "manifest", text, "present", tuple(manifests)))
    expected = _expected_classes(read) if validation.min_clips_per_label > 0 else ()
    if expected:
        text = "no label of a closed set is absent from a split"
        rules.append(Rule("every_label_occurs", "label_class", text, "present", expected))
    return rules


def _unknown_subjects(table: pd.DataFrame) -> str:
    """The corpora that the rule on subjects cannot check, since their lists name none."""
    known = table["subject"].notna().groupby(table["corpus"]).any()
    unknown = [str(corpus) for corpus in known.index[~known]]
    return f"; not known for {', '.join(unknown)}, which name no subjects" if unknown else ""


def count_clips(names: Sequence[str], table: pd.DataFrame) -> dict[str, Any]:
    """Clips per manifest, split and label (`none` for captions)."""
    counts: dict[str, Any] = {}
    for name in sorted(names):
        rows = table[table["manifest"] == name]
        labels = rows["label"].fillna("none")
        counts[name] = {
            "clips": len(rows),
            "corpora": sorted(rows["corpus"].dropna().unique()),
            "folds": sorted(int(fold) for fold in rows["fold"].dropna().unique()),
            "splits": {
                str(split): dict(sorted(labels[rows["split"] == split].value_counts().items()))
                for split in sorted(rows["split"].dropna().unique())
            },
        }
    return counts


def _counted(table: pd.DataFrame, known: Mapping[str, Labels]) -> pd.DataFrame:
    """The table with the columns that summarise several cells or rows."""
    needed = [f.name for f in fields(Clip) if f.name not in _OPTIONAL]
    labels = table["label"].fillna("")
    closed = table["corpus"].isin([name for name, labels in known.items() if labels.closed])
    splits = table["split"].fillna("")
    by_class = table["manifest"] + "/" + splits.astype(str) + "/" + labels.astype(str)
    usual = table.groupby("corpus")["fold"].transform(_most_common)
    in_split = [table["corpus"].fillna(""), splits, table["content"]]
    copies = table.groupby(in_split)["content"]
    return table.assign(
        gaps=[", ".join(c for c in needed if pd.isna(row[c])) for _, row in table.iterrows()],
        label_is_known=[
            _is_known(known[corpus], label, soft)
            for corpus, label, soft in zip(
                table["corpus"], table["label"], table["soft_label"], strict=True
            )
        ],
        path_is_inside=[_is_inside(path) for path in table["path"]],
        splits_of_subject=table.groupby(["corpus", "subject"])["split"].transform("nunique"),
        splits_of_content=table.groupby("content")["split"].transform("nunique"),
        labels_of_content=table.groupby(in_split)["label"].transform("nunique"),
        copies_in_split=_surplus(copies.transform("size"), copies.cumcount(), in_split[:2]),
        fold_is_usual=table["fold"].fillna(0).eq(usual.fillna(0)),
        label_class=by_class,
        clips_of_label=by_class.groupby(by_class).transform("size").where(closed),
        clips_of_manifest=table.groupby("manifest")["manifest"].transform("size"),
    )


def _name_copies(clips: Sequence[Clip], content: Sequence[int]) -> list[str]:
    """For each clip that has copies: which one, if possible of another split or label, and why."""
    groups: dict[int, list[Clip]] = defaultdict(list)
    for clip, group in zip(clips, content, strict=True):
        kinds = [(c.split, c.label) for c in groups[group]]
        if kinds.count((clip.split, clip.label)) < 2:  # two are enough to name one for each clip
            groups[group].append(clip)
    names = []
    for clip, group in zip(clips, content, strict=True):
        others = [c for c in groups[group] if (c.clip_id, c.path) != (clip.clip_id, clip.path)]
        others.sort(key=lambda c: (c.split == clip.split, c.label == clip.label))
        named = [f"{_named(clip)} is {_named(c)} ({_how_alike(clip, c)})" for c in others[:1]]
        names.append("".join(named))
    return names


def _named(clip: Clip) -> str:
    return f"{clip.corpus} {clip.split} {clip.path}"


def _how_alike(one: Clip, other: Clip) -> str:
    if one.sha256 == other.sha256:
        return "the same bytes"
    sound, pictures = likeness(one, other)
    return f"sound {sound:.2f} alike, pictures {pictures:.2f}"


def _surplus(sizes: pd.Series, places: pd.Series, split: list[pd.Series]) -> pd.Series:
    """For a clip that has copies: how many copies its split has in all; 0 for any other clip."""
    surplus = places.gt(0).groupby(split).transform("sum")
    return surplus.where(sizes > 1, 0).astype("int64")


def _is_known(labels: Labels, label: str | None, soft_label: SoftLabel | None) -> bool:
    known = labels.known
    if soft_label is not None and not (
        all(name in known and 0 <= share <= 1 for name, share in soft_label)
        and math.isclose(sum(share for _, share in soft_label), 1.0, abs_tol=1e-6)
    ):
        return False
    if label is None or pd.isna(label):
        return labels.may_lack
    return label in known


def _is_inside(path: object) -> bool:
    parts = str(path or "/").replace("\\", "/").split("/")
    return parts[0] != "" and ".." not in parts


def _most_common(folds: pd.Series) -> Any:
    counts = folds.fillna(0).value_counts()
    return min(counts[counts == counts.max()].index) or None


def _expected_classes(read: Manifests) -> tuple[str, ...]:
    pairs = read.table[["manifest", "corpus"]].drop_duplicates().itertuples(index=False)
    return tuple(
        f"{manifest}/{split}/{label}"
        for manifest, corpus in pairs
        for split in read.labels[corpus].closed
        for label in read.labels[corpus].known
    )
