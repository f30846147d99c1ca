"""File names that came from outside -> files inside the corpus root, or an error."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath


class EscapesRoot(ValueError):
    """A path that leaves the corpus root, or is no path at all."""


def relative_path(text: str) -> str:
    """`text` as a plain relative path with forward slashes: "./a\\b.mp4" is "a/b.mp4".

    Raises EscapesRoot for an absolute path, a drive, a "..", a NUL and for nothing at all.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    outside = path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts
    if outside or not path.name or "\0" in text:
        raise EscapesRoot(f"{text!r} is not a relative path inside the corpus root")
    return str(path)


def spellings(text: str) -> tuple[str, ...]:
    """The relative paths that `text` may mean: as it is, then with slashes for backslashes.

    A backslash is an ordinary character of a file's name here, and Windows' separator in lists.
    Raises EscapesRoot as `relative_path` does.
    """
    slashed = relative_path(text)
    return tuple(dict.fromkeys((str(PurePosixPath(text)), slashed)))


def resolve_clip(root: Path, relative: str) -> Path:
    """The place of `relative` below `root`, whether or not a file is there.

    Raises EscapesRoot (a ValueError) naming the path if it leaves the root by itself or through
    a symbolic link.
    """
    found = [name for name in spellings(relative) if _is_there(root / name)]
    path = root / (found or [relative_path(relative)])[0]
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise EscapesRoot(f"{relative!r} leads out of the corpus root {root}")
    return path


def find_clip(root: Path, candidates: Iterable[str]) -> str | None:
    """The first of `candidates` that is there, relative to `root`, or None.

    Raises EscapesRoot for a candidate that leaves the root.
    """
    for candidate in candidates:
        for relative in spellings(candidate):
            if _is_there(root / relative):
                resolve_clip(root, relative)
                return relative
    return None


def index_names(root: Path) -> dict[str, list[str]]:
    """File name -> the places below `root` where files of that name lie, relative to it.

    Links to folders are not followed.
    """
    places: dict[str, list[str]] = {}
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in names:
            place = os.path.relpath(os.path.join(folder, name), root)  # noqa: PTH118
            places.setdefault(name, []).append(place)
    return places


def find_anywhere(places: Mapping[str, list[str]], candidates: Iterable[str]) -> list[str]:
    """The places of the first candidate whose file name lies anywhere below the root."""
    names = dict.fromkeys(PurePosixPath(relative_path(c)).name for c in candidates)
    return next((places[name] for name in names if name in places), [])


def _is_there(path: Path) -> bool:
    """Whether anything but a folder is at `path` (a fifo is: that it hangs is found later)."""
    try:
        return path.exists() and not path.is_dir()
    except OSError:  # a name that is too long for the file system
        return False
