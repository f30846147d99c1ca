"""A training's metrics by step: written while it runs, read afterwards."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from r1omni.machine.environment import is_first

Log = Callable[[int, Mapping[str, float]], None]
TIME = "time/"  # metrics that differ from run to run: they go to MLflow and the state, to no output


class Curves:
    """Metrics by step in a JSON-lines file: {"step": 1, "train/loss": 0.7, …}.

    Only rank 0 writes. The file outlives a kill, so `rewind` can log its rows again. A step that is
    repeated after a kill has two rows; `read_curves` takes the last one.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path = path
        self._log = log

    def rewind(self, step: int) -> None:
        """Log the rows up to `step` again; later rows stay until their steps are repeated."""
        if not is_first():
            return
        rows = read_curves(self._path)
        _write_rows(self._path, rows)  # drops a last line that a kill has cut short
        for row in rows:
            if row["step"] <= step:
                self._log(int(row["step"]), {k: v for k, v in row.items() if k != "step"})

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one step's metrics to the file and log them."""
        if not is_first():
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._log(step, metrics)


def read_curves(path: Path) -> list[dict[str, float]]:
    """The rows of a curves file, one per step, without a last line that a kill has cut short."""
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
    """Split the curves: `times` gets the metrics in seconds, `out` gets all others."""
    rows = read_curves(path)
    timed = {key for row in rows for key in row if key.startswith(TIME)}
    _write_rows(out, [{k: v for k, v in row.items() if k not in timed} for row in rows])
    _write_rows(times, [{k: v for k, v in row.items() if k in {"step", *timed}} for row in rows])


def _write_rows(path: Path, rows: Iterable[Mapping[str, float]]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)
