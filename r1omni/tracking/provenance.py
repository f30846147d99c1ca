"""The provenance of a run's numbers: digests of files, the code's commit, the stage's name."""

import hashlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from r1omni.lineage import Lineage, origin_record, read_lineage
from r1omni.tracking.store import project_root

WRITTEN = ("dvc.lock", "data")  # the run itself writes these
logger = logging.getLogger(__name__)

DIGEST_LENGTH = 32  # MLflow allows 36 characters
HELD_OUT_NOTE = b"r1omni.held_out"  # in the metadata of a table of held-out predictions


def file_hash(path: Path) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(folder: Path) -> str:
    """The SHA-256 over the relative names and bytes of all files under `folder`.

    Raises ValueError if there are none.
    """
    return joint_hash(file_hashes(folder))


def file_hashes(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file under `folder`. Raises ValueError for no files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        raise ValueError(f"{folder}: expected a checkpoint folder with files in it")
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}


def joint_hash(hashes: Mapping[str, str]) -> str:
    """The content hash of a folder whose `file_hashes` are these."""
    text = "".join(f"{name} {digest}\n" for name, digest in hashes.items())
    return hashlib.sha256(text.encode()).hexdigest()


def held_out_note(path: Path) -> dict[str, Any]:
    """What a table of held-out predictions notes: "digest" and "n" of its clips, and its metrics.

    Raises ValueError, naming the file, for any other file.
    """
    try:
        note = json.loads((pq.read_schema(path).metadata or {})[HELD_OUT_NOTE])
        return {"digest": str(note.pop("digest")), **{k: float(v) for k, v in note.items()}}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path}: expected held-out predictions, as `r1omni predict-held-out` writes them: "
            f"{error!r}"
        ) from error


def check_content(what: str, folder: Path, registered: str | None) -> None:
    """Raise ValueError if the folder's content hash is not the registered one; None: a warning."""
    if registered is None:
        logger.warning("%s: registered without a content hash, so it cannot be checked", what)
        return
    found = content_hash(folder)
    if found != registered:
        raise ValueError(
            f"{what}: the files in {folder} are not those that were registered: their content hash "
            f"is {found[:12]}, not {registered[:12]}; register the undamaged checkpoint again"
        )


def fingerprint(*parts: object) -> str:
    """A short hash of anything that JSON can write."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested params as ("grpo.reward_weights.format", "1.0")."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def code_tags() -> dict[str, str]:
    """The git commit, and the DVC stage and experiment, if they are known.

    `git.dirty`: whether code or params differ from the commit. dvc.lock and data/ do not count,
    because the run itself writes them.
    """
    names = {"dvc_stage": "DVC_STAGE", "dvc_experiment": "DVC_EXP_NAME"}
    tags = {tag: os.environ[name] for tag, name in names.items() if os.environ.get(name)}
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return tags
    tags["mlflow.source.git.commit"] = commit
    changes = _git("status", "--porcelain", "--", ".", *(f":(exclude){path}" for path in WRITTEN))
    if changes is not None:
        tags["git.dirty"] = "true" if changes else "false"
    return tags


def committed_text(path: Path) -> str | None:
    """The text of a file of the project in the last commit; None if that has no such file."""
    found = (project_root() / path).resolve()
    if not found.is_relative_to(project_root().resolve()):
        return None
    return _git("show", f"HEAD:./{found.relative_to(project_root().resolve()).as_posix()}")


def write_commit_record(path: Path) -> None:
    """Write a checkpoint's commit and date to `path`, atomically.

    They are not part of the checkpoint: equal results must be equal bytes.
    """
    note = {**code_tags(), "date": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(note, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def _git(*arguments: str) -> str | None:
    """git's output; None without git, without a repository, or before the first commit."""
    try:
        found = subprocess.run(
            ["git", *arguments],
            cwd=project_root(),
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def lineage_tags(checkpoint: Path) -> dict[str, str]:
    """A checkpoint's lineage as tags: data, size, seed, and hashes of code and params.

    Raises ValueError, naming the file, for an invalid provenance.json.
    """
    lineage = read_lineage(checkpoint) or Lineage({})
    corpora = {name: origin_record(origin) for name, origin in lineage.data.items()}
    tags = {
        "data": lineage.trained_on,
        "corpora": json.dumps(corpora) if corpora else None,
        "parameters": lineage.parameters,
        "seed": lineage.seed,
        "code": lineage.code,
        "params_hash": lineage.params_hash,
    }
    return {key: str(value) for key, value in tags.items() if value is not None}


@dataclass(frozen=True)
class MeasuredSet:
    """Test clips on which a model was measured; `digest` is over their ids, labels and bytes."""

    corpus: str
    digest: str
    n: int
    source: Path


def measured_inputs(measured: Iterable[MeasuredSet]) -> list[Any]:
    """One MLflow DatasetInput for each set of test clips."""
    return [
        _dataset_input(found.corpus, found.digest, found.source, found.n, "evaluation")
        for found in measured
    ]


def dataset_inputs(datasets: Sequence[Path]) -> list[Any]:
    """One MLflow DatasetInput per file: its name, content digest, path and number of rows."""
    return [
        _dataset_input(dataset_name(path), file_hash(path), path, _rows_of(path), "training")
        for path in datasets
    ]


def _dataset_input(name: str, digest: str, source: Path, rows: int, context: str) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return DatasetInput(
        Dataset(
            name=name,
            digest=digest[:DIGEST_LENGTH],
            source_type="local",
            source=json.dumps({"uri": str(source)}),
            profile=json.dumps({"num_rows": rows}),
        ),
        [InputTag("mlflow.data.context", context)],
    )


def dataset_name(path: Path) -> str:
    """A manifest's own name, or the corpus's folder for an annotation file (JSON)."""
    return path.parent.name if path.suffix == ".json" else path.stem


def _rows_of(path: Path) -> int:
    if path.suffix == ".json":
        return len(json.loads(path.read_text(encoding="utf-8")))
    return int(pq.read_metadata(path).num_rows)
