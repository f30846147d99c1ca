"""The lineage of a number: rendered or real clips, the model, its code and params.

Imports nothing heavy: commands, tables and MLflow use it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

Data = Literal["synthetic", "real", "mixed", "unknown"]
PROVENANCE: Final = "provenance.json"

# The text for each kind of data in tables and pages.
DATA_TEXT: Final[Mapping[Data, str]] = {
    "synthetic": "synthetic corpora (rendered faces)",
    "real": "real corpora",
    "mixed": "mixed corpora (synthetic and real)",
    "unknown": "corpora of unknown origin",
}


@dataclass(frozen=True)
class Origin:
    """The origin of a corpus's clips; for rendered clips with shortcut strength and seed."""

    data: Data
    shortcut: float | None = None
    seed: int | None = None


UNKNOWN: Final = Origin("unknown")


@dataclass(frozen=True)
class Lineage:
    """A checkpoint's record of itself; a field that is not recorded is None.

    `data`: the origin of every corpus that it or an ancestor was trained on. `parameters`: their
    number in the whole model, `language_model` in Qwen2 alone. `code`, `params_hash`: hashes.
    """

    data: Mapping[str, Origin]
    parameters: int | None = None
    language_model: int | None = None
    seed: int | None = None
    mode: str | None = None
    code: str | None = None
    params_hash: str | None = None

    @property
    def trained_on(self) -> Data:
        """The kind of all its training data."""
        return joint_kind(origin.data for origin in self.data.values())


def joint_kind(kinds: Iterable[Data]) -> Data:
    """The kind of several corpora together.

    An unknown corpus among rendered ones makes the whole unknown, because it may be real. Among
    real ones it changes nothing: public checkpoints do not record their training data.
    """
    found = set(kinds)
    if "mixed" in found or found >= {"synthetic", "real"}:
        return "mixed"
    if "real" in found:
        return "real"
    return "synthetic" if found == {"synthetic"} else "unknown"


def joint_origins(parts: Iterable[tuple[str, Origin]]) -> dict[str, Origin]:
    """Every corpus with its origin; a corpus with two origins gets their joint kind."""
    found: dict[str, Origin] = {}
    for corpus, origin in parts:
        other = found.setdefault(corpus, origin)
        if other != origin:
            found[corpus] = Origin(joint_kind((other.data, origin.data)))
    return dict(sorted(found.items()))


def size_text(parameters: int) -> str:
    """A model's size in millions or billions: "1.0 M", "894 M", "7.6 B"."""
    for unit, scale in (("B", 1e9), ("M", 1e6)):
        if parameters >= 0.9995 * scale:
            value = parameters / scale
            return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
    return f"{parameters / 1e6:.2g} M"


def read_lineage(checkpoint: Path) -> Lineage | None:
    """The lineage in a checkpoint's provenance.json; None if another program made the checkpoint.

    Raises ValueError, naming the file, for an invalid record.
    """
    record = read_provenance(checkpoint)
    if record is None:
        return None
    try:
        size = record.get("parameters") or {}
        return Lineage(
            data=origins_from(record.get("data") or {}),
            parameters=size.get("total"),
            language_model=size.get("language_model"),
            seed=record.get("seed"),
            mode=record.get("mode"),
            code=record.get("code"),
            params_hash=record.get("params_hash"),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(_no_provenance(checkpoint, error)) from error


def read_provenance(checkpoint: Path) -> dict[str, Any] | None:
    """A checkpoint's provenance.json: the stage, params, data, code and parent that made it.

    None if another program made the checkpoint. Raises ValueError, naming the file, if it is not a
    JSON object.
    """
    path = checkpoint / PROVENANCE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(_no_provenance(checkpoint, error)) from error
    if not isinstance(record, dict):
        raise ValueError(_no_provenance(checkpoint, TypeError(f"got {record!r}")))
    return record


def write_provenance(checkpoint: Path, record: Mapping[str, Any]) -> None:
    """Write provenance.json into the folder of a checkpoint."""
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    (checkpoint / PROVENANCE).write_text(text, encoding="utf-8")


def _no_provenance(checkpoint: Path, error: Exception) -> str:
    return f"{checkpoint / PROVENANCE}: expected a checkpoint's provenance: {error}"


def origins_from(record: Mapping[str, Any]) -> dict[str, Origin]:
    """The origins of a JSON object {corpus: {"data": …}}. Raises ValueError for anything else."""
    return {corpus: origin_from(values) for corpus, values in record.items()}


def origin_from(record: Mapping[str, Any]) -> Origin:
    """The origin of a JSON object like {"data": "synthetic", "shortcut": 0.5, "seed": 1}."""
    data: Any = record.get("data")
    if data not in get_args(Data):
        raise ValueError(f"data is {data!r}; expected one of {', '.join(get_args(Data))}")
    return Origin(data, record.get("shortcut"), record.get("seed"))


def origin_record(origin: Origin) -> dict[str, Any]:
    """An origin as a JSON object, without unknown fields."""
    return {key: value for key, value in asdict(origin).items() if value is not None}


def caution(lineage: Lineage | None) -> str | None:
    """A warning to show before the model answers; None unless it saw rendered faces only."""
    if lineage is None or lineage.trained_on != "synthetic":
        return None
    size = "" if lineage.parameters is None else f", {size_text(lineage.parameters)} parameters"
    return (
        "this checkpoint was trained on rendered faces only (synthetic corpora"
        f"{size}): its answers about real clips mean nothing"
    )
