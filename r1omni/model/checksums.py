"""SHA-256 of the files in a folder of features, and the refusal of one that is damaged.

One inode may be the pipeline's state, its data and DVC's cache, and DVC does not read again what it
has linked. A folder's tables stand in `SHA256SUMS`, its shards in the index.
"""

import hashlib
from pathlib import Path
from typing import Final

SUMS: Final = "SHA256SUMS"  # lines as sha256sum writes them
_HEAL: Final = (
    "DVC would put the same bytes back from its cache, so first remove them there: `r1omni doctor "
    "--cache --remove`, then `r1omni repro` (or `dvc pull`) makes them anew"
)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, expected: str, source: str) -> None:
    """Raise ValueError, naming the file, if its SHA-256 is not the one in `source`."""
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}; {_HEAL}") from error
    if found != expected:
        raise ValueError(
            f"{path}: is damaged: its SHA-256 is {found[:12]}..., {source} beside it says "
            f"{expected[:12]}...; {_HEAL}"
        )


def write_sums(folder: Path) -> None:
    """Write the checksums of the folder's tables; each later change of a table needs it again."""
    lines = [f"{sha256_of(path)}  {path.name}\n" for path in sorted(folder.glob("*.parquet"))]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def verify_table(path: Path) -> bool:
    """Whether the folder has this table. Raises ValueError for one that is damaged or gone."""
    sums = path.with_name(SUMS)
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
        expected = {name: checksum for checksum, name in map(str.split, lines)}
    except (OSError, ValueError) as error:
        raise ValueError(f"{sums}: cannot be read: {error}; run the features stage") from error
    if path.name in expected:
        verify(path, expected[path.name], SUMS)
    return path.name in expected
