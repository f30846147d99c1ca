"""What a folder holds for `predict`: media by FFmpeg's own table, and a word on all the rest."""

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from r1omni.inference.files import Refusal, read_file
from r1omni.inference.finding import find_files, media_suffixes
from r1omni.media import MediaSettings, UnreadableMedia


def touch(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return [folder / name for name in names]


def test_what_ffmpeg_plays_is_taken_from_a_folder_whatever_its_extension(tmp_path):
    kinds = "3gp aac aiff amr ape au avi caf divx dv eac3 flac flv gif gsm m2ts m4a m4v mka mkv mov"
    kinds += " mp2 mp3 mp4 mpe mpeg mpg mts mxf oga ogg ogv opus rm ts vob wav webm wma wmv wv"
    media = touch(tmp_path, *(f"a.{kind}" for kind in [*kinds.split(), "CAF", "MP4"]))
    touch(tmp_path, "b.txt", "c.txt", "d.jpg", "e.PNG", "f.srt", "g.m3u8", "LICENSE", ".h.mp4")
    found = find_files([str(tmp_path)])
    assert found.items == sorted(media)
    assert found.account() == (
        "8 files skipped: 2 .txt, 1 hidden, 1 without an extension, 1 .jpg, 1 .png, 1 .srt, 1 .m3u8"
    )


def test_no_text_picture_or_subtitle_passes_for_media():
    no_media = (
        "txt md csv json xml html py js rs c sub ass srt vtt jpg png webp svg pdf parquet pls"
    )
    assert media_suffixes().isdisjoint(f".{kind}" for kind in no_media.split())


def test_names_folders_and_patterns_stand_for_each_file_once(tmp_path):
    first, second, third = touch(tmp_path, "a[1].mp4", "deep/b.WAV", "deep/er/c.mkv")
    touch(tmp_path, ".hidden.mp4")
    (tmp_path / "none").mkdir()
    for names, expected in {
        (first, f"{tmp_path}/a*.mp4", first): [first],
        (tmp_path, third): [first, second, third],
        (f"{tmp_path}/d*/*.WAV",): [second],
        (f"{tmp_path}/d*",): [second, third],
        (f"{tmp_path}/**/*.mkv",): [third],
        (f"{tmp_path}/**",): [first, second, third],
        (f"{tmp_path}/*.mov",): [Refusal(f"{tmp_path}/*.mov", "no file matches")],
        (f"{tmp_path}/none",): [
            Refusal(f"{tmp_path}/none", "a folder without a video or audio file")
        ],
    }.items():
        assert find_files(map(str, names)).items == expected, names


def test_a_named_file_is_tried_and_not_told_as_skipped(tmp_path):
    (text,) = touch(tmp_path, "b.txt")
    found = find_files([str(tmp_path), str(text)])
    assert found.items[1:] == [text]
    assert found.account() == ""


def test_symbolic_links_are_followed_and_their_loops_end(tmp_path):
    inside, outside = touch(tmp_path, "clips/a.mp4", "elsewhere/b.mp4")
    (tmp_path / "clips/loop").symlink_to(tmp_path / "clips")
    (tmp_path / "clips/other").symlink_to(outside.parent)
    (tmp_path / "clips/self.mp4").symlink_to(tmp_path / "clips/self.mp4")
    found = find_files([str(tmp_path / "clips")])
    linked, itself = tmp_path / "clips/other/b.mp4", tmp_path / "clips/self.mp4"
    assert found.items == [inside, linked, itself]
    settings = MediaSettings(4, 16, "pad", 16000, 32000, 400, 160, 10)
    with pytest.raises(UnreadableMedia, match=r"self\.mp4: cannot be read: Too many levels"):
        read_file(itself, settings)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    found = find_files([str(tmp_path)])
    assert found.account() == "1 file skipped: 1 that are no regular files"
    settings = MediaSettings(4, 16, "pad", 16000, 32000, 400, 160, 10)
    with pytest.raises(UnreadableMedia, match="is no regular file"):
        read_file(tmp_path / "a.mp4", settings)


def _refused(folder: str) -> Refusal:
    return Refusal(folder, "a folder that cannot be read: Permission denied")


def test_a_folder_without_permission_is_named(tmp_path, monkeypatch):
    """Root may read everything, so the system's refusal is made up here."""
    touch(tmp_path, "a.mp4", "locked/b.mp4")
    real = os.scandir

    def scandir(folder):
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    locked = str(tmp_path / "locked")
    assert find_files([str(tmp_path)]).items == [tmp_path / "a.mp4", _refused(locked)]
    assert find_files([locked]).items == [_refused(locked)]
    assert find_files([f"{tmp_path}/*/*.mp4"]).items[0] == _refused(locked)


LISTING = """
import os, sys
from r1omni.inference.finding import find_files
from r1omni.inference.files import Refusal
os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
for item in find_files([sys.argv[1]]).items:
    print(item.as_text() if isinstance(item, Refusal) else item.name)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may read; pytest's own are root's alone, xdist's deeper still."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_told_of_what_is_locked(public):
    touch(public, "a.mp4", "locked/b.mp4", "names only/c.mp4")
    (public / "locked").chmod(0o000)
    (public / "names only").chmod(0o744)
    nobody = str(pwd.getpwnam("nobody").pw_uid)
    done = subprocess.run(
        [sys.executable, "-c", LISTING, public, nobody], capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "a.mp4",
        f"{public}/locked: refused: a folder that cannot be read: Permission denied",
        "c.mp4",
    ], done.stderr
