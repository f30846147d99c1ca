"""What the stage `judges` wrote, read again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from r1omni.claims import ATTRIBUTES, Verdict
from r1omni.judges.reader import Reader, read_reader
from r1omni.judges.verdicts import read_verdicts


@dataclass(frozen=True)
class Judged:
    """The reader, and the judges' verdicts on the test clips by clip id."""

    reader: Reader
    verdicts: Mapping[str, Verdict]
    reliability: Mapping[str, tuple[float, int]]  # attribute -> AUC within labels, texts


def read_judged(folder: Path) -> Judged:
    """The contents of data/judges. Raises ValueError naming the file that is missing or wrong."""
    verdicts = read_verdicts(folder / "verdicts.parquet")
    return Judged(read_reader(folder / "reader.json"), verdicts, _reliability(folder))


def _reliability(folder: Path) -> dict[str, tuple[float, int]]:
    path = folder / "reliability.json"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): (float(known["reliability"]), int(known["texts"]))
            for side in ATTRIBUTES
            for name, known in tree[side].items()
            if known["reliability"] is not None
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: expected the judges' reliability: {error!r}") from error
