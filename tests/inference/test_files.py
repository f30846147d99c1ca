"""The reader of `predict` refuses what ingestion refuses, and says what it could not see."""

from pathlib import Path

import av
import numpy as np
import pytest
from clip_files import LIMITS, write_clip
from mutations import mutated

from r1omni.corpora.ingestion.probing import Unreadable, probe_clips
from r1omni.inference.files import NO_VIDEO, ReadFile, read_file
from r1omni.inference.reading import read_files
from r1omni.media import MediaSettings, UnreadableMedia, decode, probe

SETTINGS = MediaSettings(4, 16, "pad", 16000, 32000, 400, 160, 10)


def test_what_ingestion_refuses_predict_refuses_too(tmp_path):
    """Three of each kind that is quick to write; a file without a picture is heard, and noted."""
    paths = []
    for seed in range(3):
        folder = tmp_path / str(seed)
        paths += [folder / one.path for one in mutated(folder, 19, seed)]
    probed = dict(probe_clips(enumerate(paths), workers=1, limits=LIMITS))
    refused = [isinstance(probed[i], Unreadable) for i in range(len(paths))]
    assert 20 < sum(refused) < 50
    for path, is_refused, outcome in zip(
        paths, refused, read_files(paths, SETTINGS, LIMITS), strict=True
    ):
        if is_refused and isinstance(outcome, ReadFile):
            assert NO_VIDEO in outcome.notes, path
        if not is_refused:
            assert isinstance(outcome, ReadFile), outcome


def raw_video(path: Path, size: tuple[int, int] = (64, 64)) -> bytes:
    """16 frames of H.264 without a container: what decord cannot open."""
    return write_clip(path, size=size, audio=None, seconds=2).read_bytes()


def smeared(video: bytes, every: int) -> bytes:
    """The video with 16 bytes inverted in the middle of every so many of its frames."""
    parts = video.split(b"\0\0\1")
    frames = [i for i, part in enumerate(parts) if part and part[0] & 31 in (1, 5)]
    for i in frames[every - 1 :: every]:
        part, middle = parts[i], len(parts[i]) // 2
        wrong = bytes(255 - byte for byte in part[middle : middle + 16])
        parts[i] = part[:middle] + wrong + part[middle + 16 :]
    return b"\0\0\1".join(parts)


def n_damaged(path: Path) -> int:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        return sum(frame.is_corrupt for frame in container.decode(video=0))


def test_what_decord_cannot_open_is_read_through_as_strictly_as_ingestion_probes(tmp_path):
    path = tmp_path / "a.h264"
    whole = raw_video(path)
    assert probe(path).n_frames == 16
    assert decode(path, 4).frames.shape == (4, 64, 64, 3)
    pictures = read_file(path, SETTINGS).inputs.pixels
    assert len(np.unique(pictures.reshape(4, -1), axis=0)) == 4
    path.write_bytes(smeared(whole, 6))
    assert n_damaged(path) == 1  # 6 % of 16
    read_file(path, SETTINGS)
    path.write_bytes(smeared(whole, 3))
    assert n_damaged(path) == 2  # 12.5 %: more than media.COMPLETE leaves
    for read in (probe, lambda p: decode(p, 4), lambda p: read_file(p, SETTINGS)):
        with pytest.raises(UnreadableMedia, match="only 14 of 16 frames decode well"):
            read(path)


def test_frames_that_change_their_size_are_refused(tmp_path):
    path = tmp_path / "both.h264"
    path.write_bytes(raw_video(tmp_path / "a.h264") + raw_video(tmp_path / "b.h264", (96, 48)))
    with pytest.raises(UnreadableMedia, match="change their size"):
        read_file(path, SETTINGS)


def test_sound_alone_that_is_cut_short_is_refused(tmp_path):
    path = write_clip(tmp_path / "a.m4a", seconds=2, video=False, faststart=True)
    whole = path.read_bytes()
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(audio=0) if packet.size]
    assert len(places) == 33
    path.write_bytes(whole[: places[30]])
    assert NO_VIDEO in read_file(path, SETTINGS).notes  # at most a tenth is lost
    path.write_bytes(whole[: places[20]])  # the codec takes one to get going
    with pytest.raises(UnreadableMedia, match="is cut short: 19 of the 33 pieces of sound"):
        read_file(path, SETTINGS)
