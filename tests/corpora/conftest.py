"""Real mp4 files, and corpora in the real layouts made of hard links to them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from clip_files import write_clip

Place = Callable[..., Path]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One clip of each kind: good, silent, truncated, garbage, empty."""
    folder = tmp_path_factory.mktemp("clips")
    good = write_clip(folder / "good.mp4", seconds=1.5)
    kinds = {"good": good, "silent": write_clip(folder / "silent.mp4", audio=None)}
    content = good.read_bytes()
    for kind, broken in {
        "truncated": content[: len(content) // 2],
        "garbage": bytes(range(256)) * 40,
        "empty": b"",
    }.items():
        kinds[kind] = folder / f"{kind}.mp4"
        kinds[kind].write_bytes(broken)
    return kinds


@pytest.fixture
def place(clips: dict[str, Path], tmp_path: Path) -> Place:
    """`place("Clip/original/1.mp4")` puts a good clip there, below the test's corpus root."""

    def link(relative: str, kind: str = "good") -> Path:
        target = tmp_path / "corpus" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(clips[kind], target)
        return target

    return link


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The test's corpus root."""
    folder = tmp_path / "corpus"
    folder.mkdir(exist_ok=True)
    return folder


def write(path: Path, content: str | bytes) -> Path:
    """Write an annotation file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def annotate(root: Path) -> Callable[[str, str | bytes], Path]:
    """`annotate("label/single_trainset_1.csv", "video_name,label\\n1,1\\n")`, below the root."""
    return lambda relative, content: write(root / relative, content)
