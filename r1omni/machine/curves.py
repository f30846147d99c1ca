"""A training's metrics by step, as they are written while it runs and read afterwards."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from r1omni.machine.environment import is_first

Log = Callable[[int, Mapping[str, float]], None]
TIME = "time/"  # metrics that no two runs share: they go to MLflow and the state, to no output


class Curves:
    """Metrics by step in a JSON-lines file: {"step": 1, "train/loss": 0.7, …}.

    Written by the first rank alone. The file is also the spool of what the log could not deliver:
    it outlives a kill, and `rewind` hands it on again. A step that is repeated after a kill stands
    there twice; its last row counts (`read_curves`).
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log

    def rewind(self, step: int) -> None:
        """Tell the log what was written up to `step`; later rows stay until they are repeated."""
        if not is_first():
            return
        rows = read_curves(self._path)
        _write_rows(self._path, rows)  # without a last line that a kill has cut short
        for row in rows:
            if row["step"] <= step:
                self._log(int(row["step"]), {k: v for k, v in row.items() if k != "step"})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step's metrics and hand them on."""
        if not is_first():
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._log(step, metrics)


def read_curves(path: Path) -> list[dict[str, float]]:
    """The rows of a curves file, one a step; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    rows: dict[float, dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        rows[row["step"]] = row
    return [rows[step] for step in sorted(rows)]


def write_curves(path: Path, out: Path, times: Path) -> None:
    """Part the curves: to `out` what equal trainings share, to `times` the seconds."""
    rows = read_curves(path)
    timed = {key for row in rows for key in row if key.startswith(TIME)}
    _write_rows(out, [{k: v for k, v in row.items() if k not in timed} for row in rows])
    _write_rows(times, [{k: v for k, v in row.items() if k in {"step", *timed}} for row in rows])


def _write_rows(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
