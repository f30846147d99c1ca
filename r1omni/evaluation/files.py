"""Any media file as the towers take it, and what has to be said about it.

The preprocessing is r1omni.media's, the same as in training. What training never meets is sound
without a picture: the model sees black frames.
"""

import glob
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from r1omni.media import (
    MediaSettings,
    Sound,
    TowerInputs,
    UnreadableMedia,
    has_picture,
    probe,
    read_clip,
    read_sound_alone,
)

NO_AUDIO: Final = "no audio: the model heard silence"
DIGITAL_SILENCE: Final = "the sound is digital silence"
NO_VIDEO: Final = "no video: the model saw black frames"

# what is taken from a folder; a file that is named itself is always tried
_VIDEO: Final = "3gp avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv"
_AUDIO: Final = "aac aif aiff flac m4a mka mp3 oga ogg opus wav wma"
SUFFIXES: Final = frozenset(f".{name}" for name in f"{_VIDEO} {_AUDIO}".split())


@dataclass(frozen=True)
class Refusal:
    """What was asked about and not answered, and why."""

    name: str
    reason: str

    def as_text(self) -> str:
        """The refusal on one line for people."""
        return f"{self.name}: refused: {self.reason}"

    def as_json(self) -> str:
        """The refusal as one line of JSON."""
        return json.dumps({"file": self.name, "refused": self.reason}, ensure_ascii=False)


@dataclass(frozen=True)
class ReadFile:
    """A file as the towers take it; `notes` say what was missing, cut or repeated."""

    path: Path
    inputs: TowerInputs
    notes: tuple[str, ...]


def find_files(names: Iterable[str]) -> Iterator[Path | Refusal]:
    """The files that names, folders and glob patterns stand for, each once, in their order.

    A folder stands for the media files anywhere below it, hidden ones left out.
    """
    seen: set[Path] = set()
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if _is_media(p.relative_to(path), p))
            missing = "a folder without a video or audio file"
        elif path.exists() or not glob.has_magic(name):
            found, missing = [path], ""
        else:
            found = sorted(p for p in _expanded(name) if p.is_file())
            missing = "no file matches"
        if not found:
            yield Refusal(name, missing)
        for file in found:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def read_file(path: Path, settings: MediaSettings, max_pixels: int | None = None) -> ReadFile:
    """One file, preprocessed as in training. Raises UnreadableMedia, naming file and reason."""
    if not path.is_file():
        raise UnreadableMedia(f"{path}: no such file")
    notes = []
    if has_picture(path, max_pixels):
        probe(path, max_pixels)  # as strictly as ingestion
        clip = read_clip(path, settings, max_pixels)
        if (clip.inputs.pixels == clip.inputs.pixels[:1]).all():
            notes.append("all sampled frames are the same picture")
    else:
        clip = read_sound_alone(path, settings)
        notes.append(NO_VIDEO)
    return ReadFile(path, clip.inputs, (*notes, *_sound_notes(clip.sound, settings)))


def _sound_notes(sound: Sound, settings: MediaSettings) -> Iterator[str]:
    if not sound.is_there:
        yield NO_AUDIO
        return
    if sound.digital_silence:
        yield DIGITAL_SILENCE
    if sound.n_lost:
        yield (
            f"{sound.n_lost} of {sound.n_packets} packets of sound could not be decoded: the model "
            "heard silence there"
        )
    if settings.cuts(sound.seconds):
        heard = settings.audio_seconds
        yield f"cut: the model heard the first {heard:g} of {sound.seconds:.1f} s of sound"


def _expanded(pattern: str) -> Iterator[Path]:
    # pathlib's glob takes no absolute pattern
    return map(Path, glob.iglob(pattern, recursive=True))  # noqa: PTH207


def _is_media(inside: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and path.suffix.lower() in SUFFIXES and path.is_file()
