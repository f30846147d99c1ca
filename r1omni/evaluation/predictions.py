"""The predictions table: one row per clip and model, with the raw completion."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from r1omni.corpora.clip import note_metadata, read_note
from r1omni.judging import judge
from r1omni.lineage import UNKNOWN, Lineage, Origin, origin_record, origins_from
from r1omni.prompts import AnswerMode


@dataclass(frozen=True)
class Prediction:
    """The answer of one model for one clip.

    `rationale`, `answer` and `prediction` are None if the completion is not well formed;
    `prediction` also if the answer is not exactly one known label. `logprob` is the sum over the
    `n_tokens` tokens. `silent`: the clip has no audio, silence replaced it. `digital_silence`:
    every audio sample is 0. `cut`: the audio is longer than the model hears.
    """

    model: str
    corpus: str
    clip_id: str
    fold: int | None
    split: Literal["train", "test"]
    label: str
    mode: AnswerMode
    completion: str
    finished: bool
    n_tokens: int
    logprob: float
    rationale: str | None
    answer: str | None
    prediction: str | None
    silent: bool
    digital_silence: bool = False
    cut: bool = False

    @property
    def right(self) -> bool:
        """Whether the prediction is the label."""
        return self.prediction == self.label

    @property
    def well_formed(self) -> bool:
        """Whether the completion is well formed in its mode (see `judge`)."""
        return judge(self.completion, self.mode).well_formed


@dataclass(frozen=True)
class TableMetadata:
    """The table's metadata: the corpora's origins and the model's lineage.

    `undecoded`: corpus -> test clips without a row, because the stage `features` could not decode
    them; 0 for a corpus that is not named. None if they were not counted. `labels`: corpus -> the
    closed set of labels by which its clips are judged.
    """

    corpora: Mapping[str, Origin]
    model: Lineage | None
    undecoded: Mapping[str, int] | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def origin(self, corpus: str) -> Origin:
        """The origin of a corpus; unknown if it is not recorded."""
        return self.corpora.get(corpus, UNKNOWN)


_DTYPES = {
    "model": "string", "corpus": "string", "clip_id": "string", "fold": "Int64",
    "split": "string", "label": "string", "mode": "string", "completion": "string",
    "finished": "bool", "n_tokens": "int64", "logprob": "float64", "rationale": "string",
    "answer": "string", "prediction": "string", "silent": "bool",
    "digital_silence": "bool", "cut": "bool",
}  # fmt: skip
COLUMNS = tuple(_DTYPES)


def write_predictions(rows: Iterable[Prediction], path: Path, metadata: TableMetadata) -> None:
    """Write the table sorted by corpus and clip, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = sorted((asdict(row) for row in rows), key=lambda r: (r["corpus"], r["clip_id"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    frame = pd.DataFrame(records, columns=list(COLUMNS)).astype(_DTYPES)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    stored = {**(table.schema.metadata or {}), **note_metadata(_note(metadata))}
    pq.write_table(table.replace_schema_metadata(stored), partial)
    partial.replace(path)


def read_metadata(path: Path) -> TableMetadata:
    """The metadata of a predictions table; NO_METADATA for a table without it.

    Raises ValueError, naming the file, for invalid metadata.
    """
    return read_note(path, _metadata_from) or TableMetadata({}, None)


def _metadata_from(note: dict[str, Any]) -> TableMetadata:
    model, undecoded = note["model"], note.get("undecoded")
    return TableMetadata(
        origins_from(note["corpora"]),
        None if model is None else Lineage(**model | {"data": origins_from(model["data"])}),
        None if undecoded is None else {str(c): int(n) for c, n in undecoded.items()},
        {str(corpus): tuple(labels) for corpus, labels in note.get("labels", {}).items()},
    )


def _note(metadata: TableMetadata) -> dict[str, Any]:
    model = None if metadata.model is None else asdict(metadata.model)
    if model is not None and metadata.model is not None:
        model["data"] = _records(metadata.model.data)
    undecoded = None if metadata.undecoded is None else dict(metadata.undecoded)
    labels = {corpus: list(found) for corpus, found in metadata.labels.items()}
    corpora = _records(metadata.corpora)
    return {"corpora": corpora, "model": model, "undecoded": undecoded, "labels": labels}


def _records(origins: Mapping[str, Origin]) -> dict[str, dict[str, Any]]:
    return {corpus: origin_record(origin) for corpus, origin in origins.items()}


def read_predictions(path: Path) -> list[Prediction]:
    """The rows of a predictions table, parsed again from their raw completions.

    So a changed vocabulary or parser takes effect without new generations. Raises ValueError,
    naming the file and the row, for a file that is missing or not parquet, missing columns, an
    unknown corpus, mode or label, and a clip with two rows of one model.
    """
    table = _read_table(path)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"{path}: missing columns {missing}; predictions have {list(COLUMNS)}")
    records = table[list(COLUMNS)].astype(object).where(lambda t: t.notna(), None)
    labels = read_metadata(path).labels
    rows = [_row(path, i, record, labels) for i, record in enumerate(records.to_dict("records"))]
    clips = Counter((row.model, row.clip_id) for row in rows)
    twice = sorted(key for key, count in clips.items() if count > 1)
    if twice:
        raise ValueError(f"{path}: clip {twice[0][1]!r} has two rows of model {twice[0][0]!r}")
    return rows


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected a predictions table")
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow raises either for a file that is not parquet
        message = f"{path}: not a parquet file; expected a predictions table: {error}"
        raise ValueError(message) from error


def _row(
    path: Path, index: int, record: dict[Any, Any], labels: Mapping[str, tuple[str, ...]]
) -> Prediction:
    where = f"{path}: row {index}"
    empty = [name for name in _REQUIRED if record[name] is None]
    if empty:
        raise ValueError(f"{where}: {', '.join(empty)} must not be empty")
    corpus, label = record["corpus"], record["label"]
    if corpus not in labels:
        raise ValueError(
            f"{where}: the labels of {corpus!r} are not noted; noted: {list(labels)}; make the "
            "predictions again"
        )
    if label not in labels[corpus]:
        known = ", ".join(labels[corpus])
        raise ValueError(f"{where}: unknown label {label!r} for {corpus}; known: {known}")
    if record["mode"] not in ("reasoned", "direct"):
        raise ValueError(f"{where}: mode {record['mode']!r} is neither 'reasoned' nor 'direct'")
    judged = judge(record["completion"], record["mode"])
    read = {"rationale": judged.rationale, "answer": judged.answer, "prediction": judged.prediction}
    return Prediction(**{str(name): value for name, value in record.items()} | read)


_REQUIRED = tuple(
    f.name
    for f in fields(Prediction)
    if f.name not in ("fold", "rationale", "answer", "prediction")
)
