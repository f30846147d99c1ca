"""Hashes of our own code and a user's: the code that made a result, and changes during a run.

Imports no torch: a stage's command hashes the code before anything heavy is imported.
"""

import hashlib
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent
# The files that can change a training's result; no commands, evaluation or tracking.
RECIPE_CODE = (
    "base_model/*.py",
    "media/*.py",
    "model/**/*.py",
    "training/*.py",
    "claim_words.py",
    "claims.py",
    "corpora/clip.py",
    "corpora/content.py",
    "corpora/origin.py",
    "corpora/synthetic/attributes.py",
    "completions.py",
    "emotions.py",
    "judges/evidence.py",
    "judges/reader.py",
    "judges/verdicts.py",
    "judging.py",
    "lineage.py",
    "prompts.py",
    "rewards.py",
)
# The files that change no result: commands, params (their values count), processes, MLflow.
PLUMBING = (
    "__init__.py",
    "__main__.py",
    "cli.py",
    "commands/*.py",
    "config.py",
    "corpora/__init__.py",
    "evaluation/__init__.py",
    "evaluation_config.py",
    "inference/__init__.py",
    "limits.py",  # time and memory of a clip
    "loopback.py",
    "machine/*.py",
    "model_config.py",
    "own_code.py",
    "params_file.py",
    "pipeline.py",
    "section.py",
    "stages/*.py",
    "tracking/*.py",
    "training/__init__.py",
    "training_config.py",
)


class CodeChanged(RuntimeError):
    """Our code or a user's was edited while a stage ran; the message names files and what to do."""


@cache
def code_at_start() -> Mapping[str, str]:
    """The SHA-256 of every file of the package, by its path, at the first call in this process."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {file.relative_to(PACKAGE).as_posix(): _sha256(file) for file in files}


def code_hash() -> str:
    """A hash of the code that decides a training's result, at the start of the process."""
    digest = hashlib.sha256()
    for name in sorted(files_of(RECIPE_CODE) - files_of(PLUMBING)):
        digest.update(f"{name} {code_at_start().get(name)}\n".encode())
    return digest.hexdigest()


def changed_code() -> list[str]:
    """The imported files that can change a result and have changed since the start."""
    own = f"{PACKAGE}/"  # compared as text: few of thousands of imported files are ours
    files = [file for m in list(sys.modules.values()) if (file := file_of(m)) is not None]
    names = {file.removeprefix(own) for file in files if file.startswith(own)}
    before = code_at_start()
    return [
        name
        for name in sorted(names - files_of(PLUMBING))
        if _sha256(PACKAGE / name) != before.get(name)
    ]


def file_hashes(files: Iterable[Path]) -> dict[Path, str]:
    """The SHA-256 of each file as it is now."""
    return {file: _sha256(file) for file in files}


def changed_files(before: Mapping[Path, str]) -> list[str]:
    """The files whose hash is another one than in `before`, by their absolute paths."""
    return [str(file.absolute()) for file, old in before.items() if _sha256(file) != old]


def refuse_changed_code(changed: list[str], what: str, advice: str) -> None:
    """Raise CodeChanged if `changed` names any: "r1omni/rewards.py changed while grpo ran: …".

    A path that is not absolute is our package's.
    """
    if changed:
        names = ", ".join(n if Path(n).is_absolute() else f"{PACKAGE.name}/{n}" for n in changed)
        raise CodeChanged(f"{names} changed while {what} ran: {advice}")


def files_of(patterns: tuple[str, ...]) -> set[str]:
    """The package's files that match `patterns`, as paths relative to the package."""
    found = {file for pattern in patterns for file in PACKAGE.glob(pattern)}
    return {file.relative_to(PACKAGE).as_posix() for file in found}


def file_of(module: object) -> str | None:
    """Where a module comes from; None for a namespace package and one that is built in."""
    file = getattr(module, "__file__", None)
    return file if isinstance(file, str) else None


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
