"""Checkpoints of the Hugging Face hub, downloaded into a folder that appears once complete."""

import glob
import hashlib
import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

# The only files that the converter reads: settings, and in each folder one format of the tensors.
SETTINGS = (".json", ".txt", ".jinja")
WEIGHTS = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),  # through torch.load(weights_only=True)
)
# The keys of HumanOmni's config.json with the names of its towers' folders.
TOWER_KEYS = {"vision": "mm_vision_tower", "audio": "mm_audio_tower", "gate": "bert_path"}
RECORD = "fetched.json"
LOG_IN = "log in by `hf auth login` or set HF_TOKEN"
BY_HAND = "or bring the files yourself (docs/how-to/real-data.md, 2)"


@dataclass(frozen=True)
class Pinned:
    """A repository at the commit to which `revision` (branch, tag or commit) was resolved."""

    repo: str
    revision: str
    commit: str
    files: tuple[str, ...]

    def record(self) -> dict[str, str]:
        """The repository's entry in fetched.json."""
        return {"repo": self.repo, "revision": self.revision, "commit": self.commit}


def run_fetch(repo: str, folder: Path, *, revision: str, towers: Mapping[str, str]) -> None:
    """Download a checkpoint to `folder`, with its towers (vision, audio, gate) in subfolders.

    `towers` are OWNER/NAME@REVISION. A tower's subfolder has its name in config.json, which the
    converter tries first. fetched.json records the commits. An interrupted download stays beside
    `folder` and is continued. Raises ValueError, naming repository and revision.
    """
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder}: exists already; remove it to fetch it again")
    root = resolve(repo, revision)
    inside = {tower: resolve(*_split_reference(place)) for tower, place in towers.items()}
    record = {**root.record(), "towers": {name: inside[name].record() for name in sorted(inside)}}
    text = json.dumps(record, indent=1) + "\n"
    partial = folder.with_name(
        f".{folder.name}.{hashlib.sha256(text.encode()).hexdigest()[:12]}.partial"
    )
    for other in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        if other != partial:  # a download of other commits
            shutil.rmtree(other)
    _download(root, partial)
    for tower, pinned in inside.items():
        _download(pinned, partial / _tower_folder(partial / "config.json", tower, pinned))
    for cache in list(partial.rglob(".cache")):
        shutil.rmtree(cache)  # huggingface_hub's notes, which contain times
    (partial / RECORD).write_text(text, encoding="utf-8")
    partial.rename(folder)


def resolve(repo: str, revision: str) -> Pinned:
    """The repository's commit at `revision`, and its files. Raises ValueError."""
    from huggingface_hub import HfApi

    with translate_hub_errors(repo, revision):
        info = HfApi().model_info(repo, revision=revision)
    files = tuple(file.rfilename for file in info.siblings or ())
    if info.sha is None or "config.json" not in files:
        raise ValueError(f"{repo}, revision {revision}: has no config.json, so is no checkpoint")
    return Pinned(repo, revision, info.sha, files)


def weight_files(folder: Path, listed: Collection[str]) -> list[str]:
    """The tensor files among `listed` that the converter reads; `folder` has their indexes.

    Raises ValueError, naming the index, for a shard that is not listed.
    """
    chosen: list[str] = []
    for place in sorted({PurePosixPath(name).parent for name in listed}):
        for index, single in WEIGHTS:
            if str(place / index) in listed:
                chosen += _shards(folder / place / index, place, listed)
                break
            if str(place / single) in listed:
                chosen.append(str(place / single))
                break
    return chosen


@contextmanager
def translate_hub_errors(repo: str, revision: str | None = None) -> Iterator[None]:
    """Turn errors of the hub into ValueError, with advice."""
    from huggingface_hub import errors

    try:
        yield
    except (
        errors.HTTPError,  # type: ignore[attr-defined]  # httpx's or httpx2's, by hub version
        errors.LocalEntryNotFoundError,  # the hub was not reached, and its cache has no copy
        errors.OfflineModeIsEnabled,
    ) as error:
        asked = repo if revision is None else f"{repo}, revision {revision}"
        raise ValueError(f"{asked}: {_error_text(error, repo)}") from error


def _error_text(error: Exception, repo: str) -> str:
    """The cause, and what to do next. `repo` is used if the error names none."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    repo = getattr(error, "repo_id", None) or repo
    if isinstance(error, errors.GatedRepoError):
        return f"access to {repo} is granted on request: ask at {hub}/{repo}, then {LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{hub} has no repository {repo}, or hides it: check the name; if it is private, "
            f"{LOG_IN}; {BY_HAND}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no such branch, tag or commit; see {hub}/{repo}/commits/main"
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # type: ignore[assignment]  # the error of the request itself
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    if isinstance(error, errors.HfHubHTTPError):
        return f"{hub} refuses ({cause}): try again later, {BY_HAND}"
    return (
        f"{hub} cannot be reached ({cause}): check the network and its proxy, set HF_ENDPOINT to "
        f"a mirror, {BY_HAND}"
    )


def _download(pinned: Pinned, folder: Path) -> None:
    """Download a repository's files, or continue; settings first, as an index lists the tensors."""
    settings = [name for name in pinned.files if name.endswith(SETTINGS)]
    _download_files(pinned, settings, folder)
    weights = weight_files(folder, pinned.files)
    _download_files(pinned, weights, folder)
    for name in (*settings, *weights):
        if not (folder / name).is_file():
            raise ValueError(f"{pinned.repo}, revision {pinned.revision}: {name} did not arrive")


def _download_files(pinned: Pinned, names: Collection[str], folder: Path) -> None:
    from huggingface_hub import snapshot_download

    if not names:
        return
    with translate_hub_errors(pinned.repo, pinned.revision):
        try:
            snapshot_download(
                pinned.repo,
                revision=pinned.commit,
                local_dir=folder,
                allow_patterns=[glob.escape(name) for name in names],
            )
        except RuntimeError as error:  # from hf_xet
            raise ValueError(
                f"{pinned.repo}, revision {pinned.revision}: the download broke off ({error}); "
                "the same command continues it"
            ) from error


def _shards(index: Path, place: PurePosixPath, listed: Collection[str]) -> list[str]:
    shards = _read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{index}: expected a weight_map of tensor to file")
    names = sorted({str(place / str(name)) for name in shards.values()})
    if strange := [name for name in names if name not in listed]:
        raise ValueError(f"{index}: names {strange[0]}, which the repository does not have")
    return names


def _tower_folder(config: Path, tower: str, pinned: Pinned) -> str:
    """The last part of the tower's path or id in config.json, else the repository's name."""
    name = Path(str(_read_json(config).get(TOWER_KEYS[tower]) or "")).name
    return name if name not in ("", "..") else Path(pinned.repo).name


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def _split_reference(place: str) -> tuple[str, str]:
    repo, at, revision = place.partition("@")
    if not (repo and at and revision):
        raise ValueError(f"{place}: expected OWNER/NAME@REVISION")
    return repo, revision
