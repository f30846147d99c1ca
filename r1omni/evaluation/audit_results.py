"""data/audit, typed: what the audit of one model measured, and one row for each audited clip."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator

from r1omni.evaluation.results import Result, write_text
from r1omni.prompts import AnswerMode

ALL: Final[str] = "all"  # the entry over the clips of all corpora

Side = Literal["face", "voice"]
Level = Literal[-1, 0, 1]


class Measured(Result):
    """A number with its interval and the number of clips or claims behind it.

    `low` and `high` are both None where no interval was taken.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    value: float
    low: float | None = None
    high: float | None = None
    n: int

    @model_validator(mode="after")
    def _check_interval(self) -> "Measured":
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high must both be numbers, or both null")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low {self.low:g} is above high {self.high:g}")
        if self.n < 0:
            raise ValueError(f"n is {self.n}, expected 0 or more")
        return self


class AuditResults(Result):
    """What an audit measured of one model: {corpus or "all": {key: number}}.

    docs/reference/metrics.md lists the keys. Whatever could not be measured is absent.
    """

    model: str
    mode: AnswerMode
    corpora: dict[str, dict[str, Measured]]

    def find(self, key: str, corpus: str = ALL) -> Measured | None:
        """The number of a key; None if it was not measured."""
        return self.corpora.get(corpus, {}).get(key)


@dataclass(frozen=True)
class AuditedClaim:
    """A claim of a rationale with what is known of it.

    `start` and `end` are its place in the rationale's text. `p`: the judge's probability of the
    claimed level, None if no judge can say. `certainty`: the model's own probability of the word.
    `weight`: the claim's contribution to the reader's logit of its answer.
    """

    side: Side
    attribute: str
    level: Level
    start: int
    end: int
    p: float | None = None
    certainty: float | None = None
    weight: float | None = None


@dataclass(frozen=True)
class AuditedClip:
    """One audited clip of one model; what is None was not measured or does not exist.

    `phi_video` and `phi_audio`: Shapley values in nats. `muted_`: with silence as the sound;
    `dark_`: with black frames; `reversed_`: after every claim of the rationale was reversed;
    `best_`: of the sampled completions the one whose claims the judges support most.
    """

    clip_id: str
    corpus: str
    label: str
    prediction: str | None
    rationale: str | None = None
    phi_video: float | None = None
    phi_audio: float | None = None
    muted_rationale: str | None = None
    muted_prediction: str | None = None
    dark_rationale: str | None = None
    dark_prediction: str | None = None
    reversed_rationale: str | None = None
    reversed_prediction: str | None = None
    reader_prediction: str | None = None
    best_rationale: str | None = None
    best_prediction: str | None = None
    claims: tuple[AuditedClaim, ...] = ()


_NUMBERS: Final = ("phi_video", "phi_audio")
_REQUIRED: Final = ("clip_id", "corpus", "label")
_COLUMNS: Final = tuple(f.name for f in fields(AuditedClip))
_CLAIMS: Final = TypeAdapter(tuple[AuditedClaim, ...])


def read_audit(path: Path) -> AuditResults:
    """The contents of an audit's JSON file.

    Raises ValueError naming the file and the key for anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected an audit's results")
    try:
        return AuditResults.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: {_first(error)}") from error


def write_audit(results: AuditResults, path: Path) -> None:
    """Write the audit's JSON file with sorted keys, atomically."""
    tree = results.model_dump()
    write_text(path, json.dumps(tree, indent=2, sort_keys=True, allow_nan=False) + "\n")


def read_audited_clips(path: Path) -> list[AuditedClip]:
    """The rows of an audit's table. Columns that the audit of a direct model lacks are None.

    Raises ValueError naming the file, the row and the column for anything else.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected an audit's clips")
    try:
        table = pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow raises either for a file that is not parquet
        raise ValueError(f"{path}: not a parquet file; expected an audit's clips") from error
    if missing := [name for name in _REQUIRED if name not in table.columns]:
        raise ValueError(f"{path}: missing columns {missing}; an audit has {list(_COLUMNS)}")
    known = [name for name in _COLUMNS if name in table.columns]
    records = table[known].astype(object).where(lambda t: t.notna(), None)
    return [_clip(f"{path}: row {i}", row) for i, row in enumerate(records.to_dict("records"))]


def write_audited_clips(clips: Iterable[AuditedClip], path: Path) -> None:
    """Write the audit's table sorted by corpus and clip, atomically."""
    ordered = sorted(clips, key=lambda clip: (clip.corpus, clip.clip_id))
    rows = [asdict(clip) | {"claims": _CLAIMS.dump_json(clip.claims).decode()} for clip in ordered]
    dtypes = {name: "float64" if name in _NUMBERS else "string" for name in _COLUMNS}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    frame = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(dtypes)
    frame.to_parquet(partial, index=False)
    partial.replace(path)


def _clip(where: str, row: Mapping[Any, Any]) -> AuditedClip:
    """A row of the table. Raises ValueError for an empty key, a bad number, and a bad claim."""
    if empty := [name for name in _REQUIRED if row[name] is None]:
        raise ValueError(f"{where}: {', '.join(empty)} must not be empty")
    values = {str(name): value for name, value in row.items()}
    text, claims = values.pop("claims", None), tuple[AuditedClaim, ...]()
    if text is not None:
        try:
            claims = _CLAIMS.validate_json(text)
        except ValidationError as error:
            raise ValueError(f"{where}: claims: {_first(error)}") from error
    for name in _NUMBERS:
        value = values.get(name)
        if value is not None and not isinstance(value, float):
            raise ValueError(f"{where}: {name} is {value!r}, expected a number")
    clip = AuditedClip(**{"prediction": None} | values, claims=claims)
    length = len(clip.rationale or "")
    for claim in claims:
        if not 0 <= claim.start < claim.end <= length:
            span = f"{claim.start} to {claim.end}"
            raise ValueError(f"{where}: claims: {span} is no part of a rationale of {length}")
    return clip


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])
