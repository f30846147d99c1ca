"""Clips as the world delivers them: cut, flipped, zeroed, empty, odd, and oddly named.

Every kind is made from real files written through PyAV; `mutated(folder, n, seed)` writes `n` files
below `folder` and says of each what it is and whether it can still be a clip.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import av
import numpy as np
from clip_files import write_clip

from r1omni.corpora.clip import Clip, Reject
from r1omni.media import UnreadableMedia, decode

Expected = Literal["clip", "reject", "either"]
NAMES = (
    "with space", "quo'te", 'double"quote', "new\nline", "tab\tname", "日本語", "Ünïcödé", "عربى",
    "-dash", "%d", "a:b", "dollar$HOME", "semi;colon", "star*?[x]", "e\u0301", "🎬", "#hash",
)  # fmt: skip


@dataclass(frozen=True)
class Mutated:
    """One file: its path below the folder, the kind of harm, and what may become of it."""

    path: str
    kind: str
    expected: Expected


def mutated(folder: Path, n: int, seed: int = 0) -> list[Mutated]:
    """`n` files of all kinds in turn."""
    rng = np.random.default_rng(seed)
    sources = Sources(folder / ".sources")
    made = []
    for index, (kind, (make, expected)) in enumerate(islice(cycle(KINDS.items()), n)):
        suffix = ".avi" if kind.endswith("avi") else ".mp4"
        name = f"{index:04d} {NAMES[index % len(NAMES)] if kind == 'name' else kind}{suffix}"
        make(sources, folder / name, rng)
        made.append(Mutated(name, kind, expected))
    return made


class Sources:
    """Whole files that the others are made from, written once each when first asked for."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self._made: dict[str, Path] = {}

    def file(self, name: str, write: Callable[[Path], object]) -> Path:
        """The file `name`, as `write` makes it."""
        if name not in self._made:
            write(self.folder / name)
            self._made[name] = self.folder / name
        return self._made[name]

    def whole(self, name: str = "whole.mp4") -> bytes:
        """The bytes of a sound clip of two seconds: whole.mp4, faststart.mp4 or whole.avi."""
        audio = ("mp2", 44100, "stereo") if name.endswith("avi") else ("aac", 16000, "mono")
        faststart = name == "faststart.mp4"
        return self.file(
            name, lambda path: write_clip(path, seconds=2, audio=audio, faststart=faststart)
        ).read_bytes()


Make = Callable[[Sources, Path, np.random.Generator], object]


def cut(name: str) -> Make:
    def make(sources: Sources, path: Path, rng: np.random.Generator) -> None:
        whole = sources.whole(name)
        path.write_bytes(whole[: int(rng.integers(0, len(whole)))])

    return make


def flipped(name: str, flips: int, part: str = "all") -> Make:
    """Bits turned over anywhere, in the boxes that describe the media, or in the media itself."""

    def make(sources: Sources, path: Path, rng: np.random.Generator) -> None:
        content = bytearray(sources.whole(name))
        start, end = box(content, part) if part != "all" else (0, len(content))
        for place in rng.integers(start, end, flips):
            content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)

    return make


def zeroed(name: str, part: str, share: float) -> Make:
    def make(sources: Sources, path: Path, rng: np.random.Generator) -> None:
        content = bytearray(sources.whole(name))
        start, end = box(content, part)
        length = int((end - start) * share)
        start += int(rng.integers(0, end - start - length + 1))
        content[start : start + length] = bytes(length)
        path.write_bytes(content)

    return make


def wrong_length(sources: Sources, path: Path, rng: np.random.Generator) -> None:
    """A duration in one of the headers that is not the media's."""
    content = bytearray(sources.whole())
    name = [b"mvhd", b"mdhd", b"tkhd", b"stts"][int(rng.integers(4))]
    place = content.find(name) + {b"mvhd": 20, b"mdhd": 20, b"tkhd": 24, b"stts": 12}[name]
    content[place : place + 4] = int(rng.integers(0, 2**31)).to_bytes(4, "big")
    path.write_bytes(content)


def box(content: bytearray, part: str) -> tuple[int, int]:
    """Where the payload of the mp4 box `part` stands."""
    place = content.find(part.encode())
    size = int.from_bytes(content[place - 4 : place], "big")
    return place + 4, place - 4 + size


def linked(name: str, write: Callable[[Path], object]) -> Make:
    """One file for all of a kind: it takes long to write."""
    return lambda sources, path, rng: os.link(sources.file(name, write), path)


def written(**how: object) -> Make:
    return lambda sources, path, rng: write_clip(path, seed=int(rng.integers(2**31)), **how)


def slow_video(path: Path, *, frames: int, size: tuple[int, int], fps: int, seconds: float) -> None:
    """A gradient that moves: cheap to write at any size and length."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        sound = container.add_stream("aac", rate=16000, layout="mono")
        picture.width, picture.height, picture.pix_fmt = *size, "yuv420p"
        ramp = np.linspace(0, 255, size[0], dtype=np.uint8)
        for i in range(frames):
            row = np.roll(ramp, 8 * i)
            pixels = np.broadcast_to(row[None, :, None], (size[1], size[0], 3)).copy()
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(picture.encode())
        rng = np.random.default_rng(0)
        for start in range(0, round(seconds * 16000), 16000):
            noise = rng.normal(0, 0.1, (1, 16000)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode())


def rates() -> Iterator[tuple[str, int, str]]:
    for rate in (8000, 11025, 12000, 22050, 24000, 32000, 44100, 48000, 96000):
        yield "aac", rate, "stereo"


_RATES = cycle(rates())

KINDS: dict[str, tuple[Make, Expected]] = {
    "cut": (cut("whole.mp4"), "reject"),
    "cut faststart": (cut("faststart.mp4"), "either"),
    "cut avi": (cut("whole.avi"), "either"),
    "one bit": (flipped("whole.mp4", 1), "either"),
    "twenty bits": (flipped("whole.mp4", 20), "either"),
    "bits of moov": (flipped("whole.mp4", 3, "moov"), "either"),
    "bits of mdat": (flipped("whole.mp4", 30, "mdat"), "either"),
    "bits of stbl": (flipped("whole.mp4", 2, "stbl"), "either"),
    "bits of avi": (flipped("whole.avi", 20), "either"),
    "zeros in mdat": (zeroed("whole.mp4", "mdat", 0.3), "either"),
    "all of mdat zero": (zeroed("whole.mp4", "mdat", 1.0), "reject"),
    "zeros in moov": (zeroed("whole.mp4", "moov", 0.2), "either"),
    "zero bytes": (lambda sources, path, rng: path.write_bytes(b""), "reject"),
    "text": (lambda sources, path, rng: path.write_text("<html>404 not found</html>\n"), "reject"),
    "noise": (lambda sources, path, rng: path.write_bytes(rng.bytes(5000)), "reject"),
    "no audio": (written(audio=None), "reject"),
    "no video": (written(video=False), "reject"),
    "wrong length": (wrong_length, "either"),
    "one frame": (written(seconds=0.125), "clip"),
    "ten minutes": (
        linked("long.mp4", lambda p: slow_video(p, frames=600, size=(64, 64), fps=1, seconds=600)),
        "clip",
    ),
    "4K": (
        linked("4k.mp4", lambda p: slow_video(p, frames=8, size=(3840, 2160), fps=8, seconds=1)),
        "clip",
    ),
    "odd rate": (lambda s, p, rng: written(audio=next(_RATES))(s, p, rng), "clip"),
    "5.1": (written(audio=("aac", 48000, "5.1")), "clip"),
    "odd size": (written(size=(66, 50)), "clip"),
    "name": (written(), "clip"),
}


def list_in(folder: Path, made: list[Mutated]) -> None:
    """Write the conversation JSON that names every file: names may be anything there."""
    entries = [
        {
            "video": one.path,
            "conversations": [
                {"from": "human", "value": "<video>\n<audio>\nWhich emotion?"},
                {"from": "gpt", "value": "happy"},
            ],
        }
        for one in made
    ]
    (folder / "annotations.json").write_text(json.dumps(entries))


def problems(
    folder: Path, made: list[Mutated], clips: list[Clip], rejects: list[Reject]
) -> list[str]:
    """What is wrong with the outcome: lost files, wrong verdicts, clips that are zeros."""
    found = []
    outcomes = [clip.path for clip in clips] + [str(reject.path) for reject in rejects]
    if sorted(outcomes) != sorted(one.path for one in made):
        found.append(f"{len(clips)} clips and {len(rejects)} rejects of {len(made)} files")
    expected = {one.path: one.expected for one in made}
    found += [f"rejected: {r}" for r in rejects if expected[str(r.path)] == "clip"]
    found += [f"without a reason: {r}" for r in rejects if not r.detail]
    found += [f"taken: {c}" for c in clips if expected[c.path] == "reject"]
    for clip in {clip.sha256: clip for clip in clips}.values():
        try:
            media = decode(folder / clip.path, 8)
        except UnreadableMedia as error:
            found.append(f"a clip that does not decode: {error}")
            continue
        if media.waveform is None or not media.waveform.any():
            found.append(f"silence: {clip}")
        if np.ptp(media.frames, axis=(1, 2, 3)).min() == 0:
            found.append(f"frames of one colour: {clip}")
    return found
