"""The media files that names, folders and glob patterns stand for, and what was skipped and why.

In a folder, files are chosen by their extension: FFmpeg and Python's table of types say which are
media. A file that is named itself, or matches a pattern, is always tried.
"""

import mimetypes
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from glob import has_magic
from pathlib import Path
from typing import Final

import av
from av.format import ContainerFormat

from r1omni.inference.files import Refusal

# FFmpeg's formats that hold pictures, subtitles, text or references to other files
_NOT_MEDIA: Final = frozenset((
    "image2", "avif", "webp", "ico", "fits", "ass", "srt", "webvtt", "sami", "scc", "sup", "sub",
    "subviewer", "microdvd", "mpsub", "mpl2", "jacosub", "realtext", "stl", "pjs", "vplayer",
    "aqtitle", "lrc", "mcc", "ttml", "vobsub", "tty", "ffmetadata", "sbg", "hls", "dash",
    "webm_dash_manifest", "idf", "cdg",
))  # fmt: skip
# extensions that FFmpeg finds by a file's content alone
_OTHER_MEDIA: Final = frozenset((
    ".3gpp", ".awb", ".divx", ".dsf", ".m4r", ".mpe", ".qcp", ".qt", ".rmvb", ".snd", ".wtv",
))  # fmt: skip
# extensions that games and old recorders use for media, and all others for something else
_RARELY_MEDIA: Final = frozenset((
    ".ass", ".bit", ".cdata", ".chk", ".dat", ".j2k", ".jxl", ".mks", ".mpo", ".str", ".sub",
    ".v", ".vb", ".xl",
))  # fmt: skip


@cache
def media_suffixes() -> frozenset[str]:
    """The extensions of files that FFmpeg may play, in lower case, with their dot."""
    formats = [ContainerFormat(name) for name in av.formats_available]
    by_format = {
        f".{extension.strip().lower()}"
        for known in formats
        if not _NOT_MEDIA & set(known.name.split(","))
        for extension in known.extensions
    }
    # the table in Python itself: the machine's own files would make it another on each
    types = mimetypes.MimeTypes(filenames=()).types_map[True]
    other = {s for s, kind in types.items() if kind.split("/")[0] in ("text", "image")}
    playable = {s for s, kind in types.items() if kind.split("/")[0] in ("audio", "video")}
    known_media = by_format - other | playable | _OTHER_MEDIA | {".gif", ".apng"}
    return frozenset(known_media - _RARELY_MEDIA)


@dataclass
class Found:
    """What was found, in order, each file once; `skipped` has the reasons for the others."""

    items: list[Path | Refusal] = field(default_factory=list)
    skipped: dict[Path, str] = field(default_factory=dict)
    _taken: set[Path] = field(default_factory=set)
    n_known: int = 0  # files and refusals, those that were there already included

    def take(self, file: Path) -> None:
        """Add a file unless it is there already, under any name."""
        real = Path(os.path.realpath(file))
        self.skipped.pop(real, None)
        self.n_known += 1
        if real not in self._taken:
            self._taken.add(real)
            self.items.append(file)

    def refuse(self, name: str, reason: str) -> None:
        """Add what cannot be answered."""
        self.n_known += 1
        self.items.append(Refusal(name, reason))

    def skip(self, file: Path, why: str) -> None:
        """Leave a file out; it may still be taken under another name."""
        real = Path(os.path.realpath(file))
        if real not in self._taken:
            self.skipped[real] = why

    def account(self) -> str:
        """One line on what was skipped, e.g. "3 files skipped: 2 .txt, 1 hidden"; or nothing."""
        if not self.skipped:
            return ""
        kinds = Counter(self.skipped.values()).most_common()
        total = len(self.skipped)
        listed = ", ".join(f"{n} {why}" for why, n in kinds)
        return f"{total} {'file' if total == 1 else 'files'} skipped: {listed}"


def find_files(names: Iterable[str]) -> Found:
    """The files that names, folders and glob patterns stand for, each once, in their order.

    A folder stands for the media files anywhere below it, also behind symbolic links; what is
    hidden is skipped. A folder that cannot be read is a Refusal.
    """
    found = Found()
    for name in names:
        path = Path(name)
        known = found.n_known
        if has_magic(name) and not os.path.lexists(path):
            parts = path.parts[1:] if path.anchor else path.parts
            matches = list(_expanded(Path(path.anchor), parts, found))
            missing = "" if matches else "no file matches"
        else:
            matches = [path]
            missing = "a folder without a video or audio file"
        for match in matches:
            if os.path.isdir(match):  # noqa: PTH112  Path.is_dir raises where nothing may be read
                _walk(match, found, set())
            else:
                found.take(match)
        if missing and found.n_known == known:
            found.refuse(name, missing)
    return found


def _walk(folder: Path, found: Found, seen: set[Path]) -> None:
    real = Path(os.path.realpath(folder))
    if real in seen:  # a loop of symbolic links
        return
    seen.add(real)
    for path in _list(folder, found):
        if path.name.startswith("."):
            found.skip(path, "hidden")
        elif os.path.isdir(path):  # noqa: PTH112
            _walk(path, found, seen)
        elif path.suffix.lower() not in media_suffixes():
            found.skip(path, path.suffix.lower() or "without an extension")
        elif os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113
            found.skip(path, "that are no regular files")
        else:
            found.take(path)


def _list(folder: Path, found: Found) -> list[Path]:
    """What lies in a folder, sorted; a folder that cannot be read is refused by its name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries)
    except OSError as error:
        found.refuse(str(folder), f"a folder that cannot be read: {error.strerror}")
        return []


def _expanded(folder: Path, parts: tuple[str, ...], found: Found) -> Iterator[Path]:
    """The paths below `folder` that match a pattern's parts, as a shell with globstar has them.

    Unlike Python's glob it reports a folder that cannot be read.
    """
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    if not has_magic(part):
        if os.path.lexists(folder / part):
            yield from _expanded(folder / part, rest, found)
        return
    if not os.path.isdir(folder):  # noqa: PTH112
        return
    inside = [path for path in _list(folder, found) if not path.name.startswith(".")]
    if part == "**":
        if rest:
            yield from _expanded(folder, rest, found)
        for path in inside:
            if path.is_dir() and not path.is_symlink():
                yield from _expanded(path, parts, found)
            elif not rest:
                yield path
        return
    for path in inside:
        if fnmatchcase(path.name, part):
            yield from _expanded(path, rest, found)
