"""A segment of a file is the whole file's pictures and sound, cut."""

from pathlib import Path

import av
import numpy as np
import pytest
from clip_files import LIMITS

from r1omni.corpora.ingestion.probing import inspect
from r1omni.media import (
    MediaSettings,
    Segment,
    UnreadableMedia,
    decode,
    frames_to_pixels,
    probe_segment,
    read_segment,
    waveform_to_mel,
)
from r1omni.media.pool import Undecoded, decode_clips

SETTINGS = MediaSettings(
    num_frames=4, image_size=32, aspect_ratio="pad", sampling_rate=16000, n_samples=16000,
    n_fft=400, hop_length=160, num_mel_bins=80,
)  # fmt: skip
FPS, SECONDS = 8, 6


@pytest.fixture(scope="module", params=[4, 250], ids=["many keyframes", "one keyframe"])
def film(request, tmp_path_factory) -> Path:
    """Six seconds: frame i has brightness 5 i; the tone rises every second, and ends after 5 s."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=FPS, options={"g": str(request.param)})
        sound = container.add_stream("aac", rate=16000, layout="mono")
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuv420p"
        for i in range(FPS * SECONDS):
            grey = np.full((64, 64, 3), 5 * i, dtype=np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(picture.encode())
        time = np.arange(5 * 16000) / 16000
        tone = (0.3 * np.sin(2 * np.pi * 200 * (1 + np.floor(time)) * time)).astype(np.float32)
        for start in range(0, len(tone), 1024):
            frame = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, start
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (2.5, 4.0), (1.3, 1.9), (4.5, 6.0)])
def test_pictures_and_sound_are_those_of_the_whole_file(film, start, end):
    whole = decode(film, num_frames=FPS * SECONDS)
    first, last = int(np.ceil(start * FPS)), int(np.ceil(end * FPS))
    inside = whole.frames[first:last]
    places = np.round((np.arange(4) + 0.5) * (len(inside) - 1) / 4 + 1e-6).astype(int)
    found = read_segment(Segment(film, start, end), SETTINGS)
    np.testing.assert_array_equal(found.pixels, frames_to_pixels(inside[places], SETTINGS))
    heard = whole.waveform[round(start * 16000) : round(min(end, start + 1.0) * 16000)]
    np.testing.assert_array_equal(found.mel, waveform_to_mel(heard, SETTINGS))
    probed = probe_segment(Segment(film, start, end))
    assert probed.n_frames == len(inside)
    assert (probed.fps, probed.duration) == pytest.approx((FPS, end - start))
    assert probed.sound.seconds == pytest.approx(min(end, 5.0) - start, abs=0.1)


def test_a_segment_behind_the_sound_has_none_and_one_behind_the_pictures_is_refused(film):
    assert not probe_segment(Segment(film, 5.5, 6.0)).has_audio
    assert not read_segment(Segment(film, 5.5, 6.0), SETTINGS).has_audio
    with pytest.raises(UnreadableMedia, match=r"film\.mp4: shows no picture from 7 to 8 s"):
        probe_segment(Segment(film, 7.0, 8.0))


def test_segments_of_one_file_have_hashes_and_prints_of_their_own(film):
    found = [inspect(Segment(film, start, start + 2.0)) for start in (0.0, 2.0)]
    for key in ("sha256", "picture_print"):
        assert getattr(found[0], key) != getattr(found[1], key)
    assert inspect(Segment(film, 0.0, 2.0)) == found[0]


def test_a_pool_decodes_files_and_segments_in_their_order(film):
    sources = [film, Segment(film, 1.0, 2.0), Segment(film, 7.0, 8.0)]
    whole, part, none = decode_clips(sources, SETTINGS, 1, LIMITS)
    assert part.pixels.mean() != whole.pixels.mean()
    np.testing.assert_array_equal(part.pixels, read_segment(sources[1], SETTINGS).pixels)
    assert none == Undecoded(film, "shows no picture from 7 to 8 s")
