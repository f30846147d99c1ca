"""Copies are found by what is decoded, however it was encoded; strangers are not copies."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from clip_files import write_clip

from r1omni.corpora import content
from r1omni.corpora.content import SAME_SOUND, group_by_content, likeness
from r1omni.corpora.ingestion.prints import Sketch, picture_print, sound_print
from r1omni.corpora.ingestion.probing import Finding, inspect
from r1omni.corpora.synthetic.attributes import ATTRIBUTES
from r1omni.corpora.synthetic.voices import SAMPLING_RATE, draw_voice


@dataclass(frozen=True)
class Row:
    sha256: str
    sound_print: str | None = None
    picture_print: str | None = None


def voice(seed: int, seconds: float = 1.7) -> np.ndarray:
    """A rendered voice as whole numbers of 16 bits (S,)."""
    rng = np.random.default_rng(seed)
    levels = {name: int(rng.integers(-1, 2)) for name in ATTRIBUTES}
    samples = round(seconds * SAMPLING_RATE)
    wave = draw_voice(levels, seed % 4, rng, n_samples=samples, noise=0.008)
    return np.rint(np.clip(wave, -1, 1) * 32767).astype(np.float64)


def pictures(seed: int, size: tuple[int, int]) -> Iterator[av.VideoFrame]:
    """A smooth picture that drifts; the same for every size (width, height)."""
    rng = np.random.default_rng(seed)
    at, speed = rng.uniform(0, 6.3, (2, 3)), rng.uniform(0.1, 0.4, 3)
    y, x = np.mgrid[: size[1], : size[0]] / np.array([size[1], size[0]])[:, None, None]
    for i in range(14):
        waves = [np.sin((2 + k) * 3 * x + at[0, k] + speed[k] * i) for k in range(3)]
        waves += [np.sin((1 + k) * 4 * y + at[1, k]) for k in range(3)]
        grey = np.clip(128 + 30 * np.sum(waves, axis=0), 0, 255).astype(np.uint8)
        yield av.VideoFrame.from_ndarray(np.stack([grey] * 3, axis=2), format="rgb24")


def encode(
    path: Path,
    sound: np.ndarray,
    *,
    seed: int,
    codecs: tuple[str, str] = ("libx264", "aac"),
    size: tuple[int, int] = (64, 64),
    rate: int = SAMPLING_RATE,
    bit_rate: int = 128_000,
) -> Path:
    """A clip of that sound, resampled to `rate`, and of the pictures of `seed`."""
    with av.open(str(path), "w") as out:
        video, audio = out.add_stream(codecs[0], rate=8), out.add_stream(codecs[1], rate=rate)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        audio.layout, audio.bit_rate = "mono", bit_rate
        for frame in pictures(seed, size):
            out.mux(video.encode(frame))
        context = audio.codec_context
        resampler = av.AudioResampler(
            context.format, context.layout, rate, frame_size=context.frame_size or 1024
        )
        wave = (sound[None] / 32768).astype(np.float32)
        whole = av.AudioFrame.from_ndarray(wave, "flt", "mono")
        whole.sample_rate, whole.time_base = SAMPLING_RATE, Fraction(1, SAMPLING_RATE)
        for piece in [*resampler.resample(whole), *resampler.resample(None)]:
            out.mux(audio.encode(piece))
        out.mux(audio.encode())
        out.mux(video.encode())
    return path


def row_of(path: Path) -> Row:
    found = inspect(path)
    assert isinstance(found, Finding), found
    return Row(found.sha256, found.sound_print, found.picture_print)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Row:
    return row_of(encode(tmp_path_factory.mktemp("copies") / "a.mp4", voice(3), seed=3))


@pytest.mark.parametrize(
    ("name", "codecs", "rate"),
    [
        ("wav.avi", ("mpeg4", "pcm_s16le"), 44100),
        ("mp3.mkv", ("libx264", "libmp3lame"), 44100),
        ("again.mp4", ("libx264", "aac"), 48000),
    ],
)
def test_a_sound_encoded_again_is_a_copy_under_other_pictures(
    original, tmp_path, name, codecs, rate
):
    path = encode(tmp_path / name, 0.5 * voice(3), seed=99, codecs=codecs, rate=rate)
    copy = row_of(path)
    assert copy.picture_print is not None and likeness(original, copy)[1] < 0.9
    assert group_by_content([original, copy]) == [0, 0]


def test_a_copy_of_another_size_is_known_by_roughly_its_sound_and_its_pictures(original, tmp_path):
    path = encode(
        tmp_path / "b.mkv", voice(3), seed=3, codecs=("mpeg4", "aac"), size=(96, 80),
        bit_rate=24_000,
    )  # fmt: skip
    copy = row_of(path)
    sound, shown = likeness(original, copy)
    assert 0.55 <= sound < 1 and shown >= 0.98
    assert group_by_content([original, copy], same_sound=1.01) == [0, 0]
    alone = Row(copy.sha256, copy.sound_print)
    assert group_by_content([original, alone], same_sound=1.01) == [0, 1]


def test_strangers_are_no_copies_even_under_the_same_pictures(original, tmp_path):
    other = row_of(encode(tmp_path / "b.mp4", voice(4), seed=3))
    assert likeness(original, other)[1] > 0.98
    strangers = [Row(f"{i}", sound_print(voice(i), SAMPLING_RATE)) for i in range(5, 150)]
    rows = [original, other, *strangers]
    assert group_by_content(rows) == list(range(len(rows)))


def test_the_fast_comparison_is_the_obvious_one_of_all_pairs(monkeypatch):
    """Noisy copies, in blocks of 7: copies of every likeness, and groups across blocks."""
    monkeypatch.setattr(content, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    sounds = [
        np.rint(voice(i % 6) + rng.normal(0, 8 * i, round(1.7 * SAMPLING_RATE))) for i in range(20)
    ]
    rows = [Row(str(i), sound_print(s, SAMPLING_RATE)) for i, s in enumerate(sounds)]
    groups = list(range(len(rows)))
    near = 0
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            alike = slow_likeness(one, other)
            assert likeness(one, other)[0] == pytest.approx(alike, abs=1e-6)
            near += 0.3 < alike < 0.95
            if alike >= SAME_SOUND:
                groups = [groups[i] if g == groups[j] else g for g in groups]
    assert near > 10 and 6 <= len(set(groups)) < len(rows)
    found = group_by_content(rows)
    assert [[g == h for h in found] for g in found] == [[g == h for h in groups] for g in groups]


def slow_likeness(one: Row, other: Row) -> float:
    """The definition: the best cosine over the delays, sign by sign."""
    a, b = (content._signs(row.sound_print).astype(int) for row in (one, other))
    sums = [
        sum(int(a[k + delay] @ b[k]) for k in range(len(b)) if 0 <= k + delay < len(a))
        for delay in range(-2, 3)
    ]
    return max(0, *sums) / (np.count_nonzero(a) * np.count_nonzero(b)) ** 0.5


def test_what_says_nothing_has_no_print_and_is_no_copy(tmp_path):
    tone = row_of(write_clip(tmp_path / "tone.mp4", seconds=2.0))
    assert tone.sound_print is None and tone.picture_print is not None
    silent = row_of(encode(tmp_path / "silent.mp4", np.zeros(27200), seed=3))
    mute = row_of(write_clip(tmp_path / "mute.mp4", audio=None))
    assert silent.sound_print is None and mute.sound_print is None
    assert group_by_content([tone, silent, mute]) == [0, 1, 2]
    assert sound_print(np.zeros(16000), 16000) is None
    assert sound_print(voice(1)[:8000], 16000) is None  # half a second
    assert sound_print(np.zeros(0), 16000) is None and sound_print(voice(1), 3999) is None
    assert picture_print([]) is None
    assert picture_print([np.full((8, 8), 7, np.uint8)] * 3) is None


@pytest.mark.parametrize("rate", [4000, 8000, 11025, 22050, 44100, 48000, 96000])
def test_a_print_is_made_at_every_rate(rate):
    """A voice at another rate is a voice at another speed, but it has a print."""
    text = sound_print(voice(2, seconds=8.0), rate)
    assert text is not None and len(bytes.fromhex(text)) <= 72 * 16 * 2 / 8


@pytest.mark.parametrize("kind", ["u8", "s16p", "s32", "fltp", "dbl"])
def test_every_type_of_sample_gives_the_same_print(kind):
    sound = 256 * np.round(voice(2) / 256)  # what 8 bits hold
    scaled = {"u8": sound / 256 + 128, "s16p": sound, "s32": sound * 2.0**16}
    dtype = {"u8": "u1", "s16p": "i2", "s32": "i4", "fltp": "f4", "dbl": "f8"}[kind]
    samples = scaled.get(kind, sound / 2**15).astype(dtype)
    stereo = np.stack([samples, samples]) if kind.endswith("p") else samples.repeat(2)[None]
    frame = av.AudioFrame.from_ndarray(stereo, kind, "stereo")
    frame.sample_rate = SAMPLING_RATE
    sketch = Sketch()
    sketch.hear(frame)
    assert sketch.prints()[0] == sound_print(sound, SAMPLING_RATE) != None  # noqa: E711


def test_the_same_bytes_are_one_group_without_prints_and_unknown_bytes_are_none():
    rows = [Row("a"), Row(""), Row("b"), Row("a"), Row(""), Row("b")]
    assert group_by_content(rows) == [0, 1, 2, 0, 4, 2]
    assert group_by_content([]) == []


def test_copies_of_copies_are_one_group():
    text = sound_print(voice(5), SAMPLING_RATE)
    rows = [Row("a", text), Row("b", text), Row("c"), Row("c"), Row("b", text)]
    assert group_by_content(rows) == [0, 0, 2, 2, 0]
