"""What the stage `judges` wrote, read again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from r1omni.judges.judge import Verdict
from r1omni.judges.reader import Reader, read_reader
from r1omni.judges.verdicts import read_verdicts


@dataclass(frozen=True)
class Judged:
    """The reader, and the judges' verdicts on the test clips by clip id."""

    reader: Reader
    verdicts: Mapping[str, Verdict]


def read_judged(folder: Path) -> Judged:
    """The contents of data/judges. Raises ValueError naming the file that is missing or wrong."""
    return Judged(read_reader(folder / "reader.json"), read_verdicts(folder / "verdicts.parquet"))
