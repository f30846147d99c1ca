"""What the judges know of the clips that GRPO learns from: what its rewards may ask them.

The stage `judges` writes the folder: `verdicts.parquet`, and the reader where a reward needs the
judges. Without such a reward the table is empty, so that a change of the judges trains nothing
again.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from r1omni.claims import Verdict
from r1omni.judges.reader import Reader, read_reader, write_reader
from r1omni.judges.verdicts import read_verdicts, write_verdicts

VERDICTS: Final = "verdicts.parquet"
READER: Final = "reader.json"


@dataclass(frozen=True)
class Evidence:
    """Verdicts by clip id, and the reader."""

    verdicts: Mapping[str, Verdict]
    reader: Reader


def write_evidence(evidence: Evidence | None, folder: Path) -> None:
    """Write the folder anew; None: no reward needs any."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_verdicts({} if evidence is None else evidence.verdicts, partial / VERDICTS)
    if evidence is not None:
        write_reader(evidence.reader, partial / READER)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def read_evidence(folder: Path) -> Evidence:
    """The folder's contents. Raises ValueError naming the file that is missing or wrong."""
    return Evidence(read_verdicts(folder / VERDICTS), read_reader(folder / READER))
