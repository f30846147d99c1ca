"""The judges' verdicts on clips, as a table: what each clip shows and sounds like."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from r1omni.claims import SIDE_OF, Verdict

COLUMNS = ("clip_id", "side", "attribute", "p_low", "p_middle", "p_high")


def write_verdicts(verdicts: Mapping[str, Verdict], path: Path) -> None:
    """Write a row for each clip and judged attribute, atomically."""
    rows = [
        (clip_id, SIDE_OF[name], name, *verdicts[clip_id][name])
        for clip_id in sorted(verdicts)
        for name in sorted(verdicts[clip_id])
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    pd.DataFrame(rows, columns=list(COLUMNS)).to_parquet(partial, index=False)
    partial.replace(path)


def read_verdicts(path: Path) -> dict[str, Verdict]:
    """Clip id -> its verdict. Raises ValueError naming the file for anything else."""
    try:
        table = pd.read_parquet(path, columns=list(COLUMNS))
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: expected a table of verdicts, as the stage judges writes it: {error}"
        ) from error
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for clip_id, _, name, low, middle, high in table.itertuples(index=False, name=None):
        found.setdefault(clip_id, {})[name] = (low, middle, high)
    return dict(found)


def merged(each: Iterable[Mapping[str, Verdict]]) -> dict[str, Verdict]:
    """Verdicts on the same clips by judges of different attributes."""
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for verdicts in each:
        for clip_id, verdict in verdicts.items():
            found.setdefault(clip_id, {}).update(verdict)
    return dict(found)
