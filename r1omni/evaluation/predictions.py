"""The predictions table: one row a clip and model, with the raw completion kept."""

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
    """What one model answered for one clip.

    `rationale`, `answer` and `prediction` are None where the completion is not well formed;
    `prediction` also where the answer is not exactly one known label. `logprob` is the sum over
    the `n_tokens` tokens. `silent`: the clip's audio was missing and replaced by silence;
    `digital_silence`: it was there, and every sample 0; `cut`: it was longer than the model hears.
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
        """Whether the completion has the form that its mode asks for (see `judge`)."""
        return judge(self.completion, self.mode).well_formed


@dataclass(frozen=True)
class About:
    """What predictions are about: the corpora's origins, and what the model records of itself.

    `undecoded`: corpus -> test clips without a row, because the stage `features` could not decode
    them; a corpus that is not named has none. None where nobody counted. `labels`: corpus -> the
    closed set of labels by which its clips are judged.
    """

    corpora: Mapping[str, Origin]
    model: Lineage | None
    undecoded: Mapping[str, int] | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def origin(self, corpus: str) -> Origin:
        """The origin of a corpus; unknown where the predictions do not say it."""
        return self.corpora.get(corpus, UNKNOWN)


_DTYPES = {
    "model": "string", "corpus": "string", "clip_id": "string", "fold": "Int64",
    "split": "string", "label": "string", "mode": "string", "completion": "string",
    "finished": "bool", "n_tokens": "int64", "logprob": "float64", "rationale": "string",
    "answer": "string", "prediction": "string", "silent": "bool",
    "digital_silence": "bool", "cut": "bool",
}  # fmt: skip
COLUMNS = tuple(_DTYPES)


def write_predictions(rows: Iterable[Prediction], path: Path, about: About) -> None:
    """Write the table sorted by corpus and clip, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = sorted((asdict(row) for row in rows), key=lambda r: (r["corpus"], r["clip_id"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    frame = pd.DataFrame(records, columns=list(COLUMNS)).astype(_DTYPES)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), **note_metadata(_note(about))}
    pq.write_table(table.replace_schema_metadata(metadata), partial)
    partial.replace(path)


def read_about(path: Path) -> About:
    """What a predictions table says that it is about; nothing for one without a note.

    Raises ValueError, naming the file, for a note that is none of ours.
    """
    return read_note(path, _about) or About({}, None)


def _about(note: dict[str, Any]) -> About:
    model, undecoded = note["model"], note.get("undecoded")
    return About(
        origins_from(note["corpora"]),
        None if model is None else Lineage(**model | {"data": origins_from(model["data"])}),
        None if undecoded is None else {str(c): int(n) for c, n in undecoded.items()},
        {str(corpus): tuple(labels) for corpus, labels in note.get("labels", {}).items()},
    )


def _note(about: About) -> dict[str, Any]:
    model = None if about.model is None else asdict(about.model)
    if model is not None and about.model is not None:
        model["data"] = _records(about.model.data)
    undecoded = None if about.undecoded is None else dict(about.undecoded)
    labels = {corpus: list(found) for corpus, found in about.labels.items()}
    corpora = _records(about.corpora)
    return {"corpora": corpora, "model": model, "undecoded": undecoded, "labels": labels}


def _records(origins: Mapping[str, Origin]) -> dict[str, dict[str, Any]]:
    return {corpus: origin_record(origin) for corpus, origin in origins.items()}


def read_predictions(path: Path) -> list[Prediction]:
    """The rows of a predictions table, judged anew from their raw completions.

    Judging anew makes a changed vocabulary or parser count without generating again. Raises
    ValueError naming the file, and the row where one is at fault, for a file that is missing or
    not parquet, missing columns, an unknown corpus, mode or label, and a clip that one model
    answers twice.
    """
    table = _read_table(path)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"{path}: missing columns {missing}; predictions have {list(COLUMNS)}")
    records = table[list(COLUMNS)].astype(object).where(lambda t: t.notna(), None)
    labels = read_about(path).labels
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
    except (ValueError, OSError) as error:  # pyarrow raises either for bytes that are no table
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
    said = {"rationale": judged.rationale, "answer": judged.answer, "prediction": judged.prediction}
    return Prediction(**{str(name): value for name, value in record.items()} | said)


_REQUIRED = tuple(
    f.name
    for f in fields(Prediction)
    if f.name not in ("fold", "rationale", "answer", "prediction")
)
