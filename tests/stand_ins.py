"""Corpora of the real size in the real layouts, their clips hard links to a few real files.

Labels are made up, but the numbers of rows, folds and files are those of the real corpora (DFEW:
Jiang et al. 2020; MAFW: Liu et al. 2022; RAVDESS: Livingstone & Russo 2018). `scale` divides the
numbers of rows (not of folds), for trees that are read clip by clip in a test.
"""

import csv
import io
import itertools
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from openpyxl import Workbook

DFEW_TESTS = (2341, 2341, 2340, 2339, 2336)
DFEW_FOLD_1 = {3: 534, 1: 489, 4: 435, 2: 379, 5: 294, 7: 181, 6: 29}  # DFEW's ids
MAFW_TESTS = (1839, 1837, 1833, 1832, 1831)
MAFW_NAMES = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise",
              "contempt", "anxiety", "helplessness", "disappointment")  # fmt: skip
MAFW_SILENT = 21
MAFW_COMPOUND = 873


def link(sources: Iterator[Path], target: Path) -> Path:
    """The next source under another name; folders are made as needed."""
    source = next(sources)
    try:
        os.link(source, target)
    except FileNotFoundError:
        target.parent.mkdir(parents=True)
        os.link(source, target)
    return target


def dealt(labels: Sequence[object], tests: Sequence[int]) -> Iterator[tuple[int, object]]:
    """The fold in whose test list each row stands, with its label."""
    folds = [fold for fold, n in enumerate(tests, start=1) for _ in range(n)]
    yield from zip(folds, labels, strict=True)


def build_dfew(
    root: Path, clips: Sequence[Path], *, scale: int = 1, second_layout: bool = False,
    padded: bool = False, votes: bool = True,
) -> None:  # fmt: skip
    """16,372 clips, 11,697 of them in five folds, with the sheet of votes."""
    tests = [n // scale for n in DFEW_TESTS]
    first = [label for label, n in DFEW_FOLD_1.items() for _ in range(n)][::scale][: tests[0]]
    others = itertools.cycle(DFEW_FOLD_1)
    rest = sum(tests) - len(first)
    labels = [*first, *itertools.islice(others, rest)]
    sources = itertools.cycle(clips)
    listed: list[tuple[int, int, int]] = []  # clip number, fold in which it tests, label
    numbers = range(1, 16372 // scale + 1)
    for number, (fold, label) in zip(every(numbers, sum(tests)), dealt(labels, tests), strict=True):
        listed.append((number, fold, int(str(label))))
    for number in numbers:
        name = f"videos/{number:05d}.mp4" if padded else f"Clip/original/{number}.mp4"
        link(sources, root / name)
    for fold, split in itertools.product(range(1, 6), ("train", "test")):
        rows = [f"{number},{label}" for number, test, label in listed
                if (test == fold) == (split == "test")]  # fmt: skip
        name = (f"label/single_{split}set_{fold}.csv" if second_layout
                else f"EmoLabel_DataSplit/{split}(single-labeled)/set_{fold}.csv")  # fmt: skip
        write_lines(root / name, ["video_name,label", *rows])
    if votes:
        by_number = {number: label for number, _, label in listed}
        sheet = [["1happy", "2sad", "3neutral", "4angry", "5surprise", "6disgust", "7fear",
                  "order", "label"]]  # fmt: skip
        for number in numbers:
            label = by_number.get(number, 0)
            counts = [7 if i == label else 1 if i == label % 7 + 1 else 0 for i in range(1, 8)]
            sheet.append([str(n) for n in (*counts, number, label)])
        write_xlsx(root / "Annotation/annotation.xlsx", sheet)


def build_mafw(root: Path, clips: Sequence[Path], silent: Path, *, scale: int = 1) -> None:
    """10,045 clips, 21 of them silent: 9,172 with a single label, 873 with a compound one."""
    tests = [n // scale for n in MAFW_TESTS]
    n_single, n_compound = sum(tests), MAFW_COMPOUND // scale
    sources = itertools.cycle(clips)
    names = [f"{number:05d}.mp4" for number in range(1, n_single + n_compound + 1)]
    quiet = set(
        names[:: max(1, n_single // MAFW_SILENT)][:MAFW_SILENT] if scale == 1 else names[:1]
    )
    for name in names:
        link(iter([silent]) if name in quiet else sources, root / "data/clips" / name)
    compound = [f"{a}{'_-'[i % 2]}{b}" for i, (a, b) in
                enumerate(itertools.combinations(MAFW_NAMES, 2))][:32]  # fmt: skip
    split_evenly = [n_compound // 5 + (fold < n_compound % 5) for fold in range(5)]
    for kind, kinds, sizes, chosen in (
        ("single", MAFW_NAMES, tests, names[:n_single]),
        ("compound", compound, split_evenly, names[n_single:]),
    ):
        labels = list(itertools.islice(itertools.cycle(kinds), len(chosen)))
        rows = [(fold, f"{name} {label}") for name, (fold, label) in
                zip(chosen, dealt(labels, sizes), strict=True)]  # fmt: skip
        for fold, split in itertools.product(range(1, 6), ("train", "test")):
            lines = [row for test, row in rows if (test == fold) == (split == "test")]
            folder = root / "Train & Test Set" / kind / "no_caption" / f"set_{fold}"
            write_lines(folder / f"{split}.txt", lines)


def build_ravdess(
    root: Path, clips: Sequence[Path], *, actors: Iterable[int] = range(1, 25)
) -> None:
    """7,356 files: speech of all 24 actors and song of all but the 18th, in three modalities."""
    sources = itertools.cycle(clips)
    for actor, (channel, emotions) in itertools.product(
        actors, (("01", range(1, 9)), ("02", range(1, 7)))
    ):
        if (actor, channel) == (18, "02"):
            continue
        for modality, emotion, said in itertools.product(
            ("01", "02", "03"), emotions, ("01-01", "01-02", "02-01", "02-02")
        ):
            sound = modality == "03"
            kind = "Speech" if channel == "01" else "Song"
            folder = f"Audio_{kind}_Actors_01-24" if sound else f"Video_{kind}_Actor_{actor:02d}"
            for intensity in ("01",) if emotion == 1 else ("01", "02"):
                name = f"{modality}-{channel}-{emotion:02d}-{intensity}-{said}-{actor:02d}"
                suffix = "wav" if sound else "mp4"
                link(sources, root / folder / f"Actor_{actor:02d}" / f"{name}.{suffix}")


def build_emer(root: Path, clips: Sequence[Path], *, rows: int = 332) -> None:
    """EMER v2: 332 clips with reasons, and their open-vocabulary labels in a second table."""
    sources = itertools.cycle(clips)
    words = itertools.cycle((["worried", "tense"], ["happy"], ["puzzled", "angry", "sad"]))
    reasons, labels = [["name", "chinese", "english"]], [["name", "openset"]]
    for number in range(rows):
        name = f"sample_{number:08d}" if number % 2 else f"samplenew_{number:08d}"
        link(sources, root / "video" / f"{name}{('.avi', '.mp4')[number % 3 == 0]}")
        reasons.append([name, "他皱眉。", "He frowns,\nand says “no”."])
        labels.append([name, repr(next(words))])
    write_csv(root / "final-EMER-reason.csv", reasons)
    write_csv(root / "openset-english.csv", labels)


def build_conversations(root: Path, clips: Sequence[Path], *, rows: int = 580) -> None:
    """The paper's cold start: rationales, every tenth answer a bare word."""
    sources = itertools.cycle(clips)
    entries = []
    for number in range(rows):
        name = f"MER24/sample_{number:08d}"
        link(sources, root / f"{name}{('.mp4', '.avi')[number % 4 == 0]}")
        answer = (
            "worried" if number % 10 == 0 else "<think>Low brows.</think>\n<answer>sad</answer>"
        )
        turns = [("human", "<video>\n<audio>\nWhich emotion?\nfear ,angry ,sad"), ("gpt", answer)]
        said = [{"from": who, "value": text} for who, text in turns]
        entries.append({"video": f"{name}.mp4", "conversations": said})
    write_lines(root / "annotations.json", [json.dumps(entries, indent=1)])


def every(items: Sequence[int], n: int) -> Iterator[int]:
    """`n` of the items, evenly spread."""
    return (items[i * len(items) // n] for i in range(n))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines, and the folders above the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a csv file with quotes where they are needed."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")


def write_xlsx(path: Path, rows: Sequence[Sequence[str]], sheet: str | None = None) -> Path:
    """A workbook of one sheet: texts are texts, numbers are numbers; `sheet`: its XML instead."""
    workbook = Workbook(write_only=True)
    page = workbook.create_sheet()
    for row in rows:
        page.append([_value(text) for text in row])
    path.parent.mkdir(parents=True, exist_ok=True)
    workbook.save(path)
    if sheet is not None:
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts["xl/worksheets/sheet1.xml"] = sheet.encode()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in parts.items():
                archive.writestr(name, content)
    return path


def _value(text: str) -> float | str | None:
    if not text.replace(".", "", 1).isdigit() or text != text.lstrip("0") != "":
        return text or None
    return float(text) if "." in text else int(text)
