"""Decoding, frame sampling, padding, pixels and log-mels, against the original's tensors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from clip_files import write_clip
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from r1omni.media import (
    MediaSettings,
    UnreadableMedia,
    decode,
    frames_to_pixels,
    log_mel,
    pad_to_square,
    preprocess,
    probe,
    sample_frame_indices,
    waveform_to_mel,
)

GOLDEN = Path(__file__).parent / "golden" / "golden_pre"
SETTINGS = MediaSettings(
    num_frames=8,
    image_size=64,
    aspect_ratio="pad",
    sampling_rate=16000,
    n_samples=32000,
    n_fft=400,
    hop_length=160,
    num_mel_bins=80,
)


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load_file(GOLDEN / "pre.safetensors")


def test_frames_are_sampled_as_the_original_samples_them(golden):
    table = json.loads((GOLDEN / "pre.json").read_text())["frame_sample"]
    assert len(table) == 32
    for case, indices in table.items():
        n_frames, num_frames = map(int, case.split("/"))
        assert sample_frame_indices(n_frames, num_frames).tolist() == indices, case


def test_five_frames_give_eight_by_repeating():
    assert sample_frame_indices(5, 8).tolist() == [0, 1, 1, 2, 2, 3, 3, 4]


@given(st.integers(1, 2000), st.integers(1, 16))
def test_sampled_frames_exist_in_order_and_symmetrically(n_frames: int, num_frames: int):
    indices = sample_frame_indices(n_frames, num_frames)
    assert len(indices) == num_frames
    assert indices.min() >= 0
    assert indices.max() <= n_frames - 1
    assert (np.diff(indices) >= 0).all()
    assert (np.abs(indices + indices[::-1] - (n_frames - 1)) <= 1).all()


def test_padding_equals_the_original(golden):
    padded = pad_to_square(golden["img_u8"][None], (127, 127, 127))
    np.testing.assert_array_equal(padded[0], golden["img_padded_u8"])


def test_padding_puts_a_narrow_frame_in_the_middle():
    frame = np.full((1, 4, 1, 3), 9, dtype=np.uint8)
    row = pad_to_square(frame, (1, 2, 3))[0, 0]
    assert row.tolist() == [[1, 2, 3], [9, 9, 9], [1, 2, 3], [1, 2, 3]]


@pytest.mark.parametrize(("aspect_ratio", "name"), [("pad", "pixel_pad"), ("none", "pixel_nopad")])
def test_pixels_equal_the_original(golden, aspect_ratio, name):
    settings = dataclasses.replace(SETTINGS, aspect_ratio=aspect_ratio)
    pixels = frames_to_pixels(golden["img_u8"][None], settings)[0]
    np.testing.assert_array_equal(pixels, golden[name])


def test_pixels_of_a_decoded_clip_equal_the_original(golden):
    media = decode(GOLDEN / "clip.mp4", 8)
    pixels = frames_to_pixels(media.frames, SETTINGS)
    np.testing.assert_array_equal(pixels.astype(np.float16), golden["clip_pixels_pad_8"])


@pytest.mark.parametrize("shape", [(2, 64, 64, 3), (1, 33, 90, 3), (1, 90, 31, 3), (1, 3, 4, 3)])
def test_pixels_are_transformers_siglip_pixels_bit_for_bit(shape):
    from transformers import SiglipImageProcessorPil

    settings = dataclasses.replace(
        SETTINGS, image_mean=(0.5, 0.4, 0.3), image_std=(0.5, 0.2, 0.7), image_size=48
    )
    frames = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    siglip = SiglipImageProcessorPil(
        size={"height": 48, "width": 48},
        image_mean=list(settings.image_mean),
        image_std=list(settings.image_std),
    )
    expected = siglip(
        list(pad_to_square(frames, (127, 102, 76))),
        input_data_format="channels_last",
        return_tensors="np",
    )["pixel_values"]
    pixels = frames_to_pixels(frames, settings)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("num_mel_bins", [80, 128])
def test_log_mel_equals_the_original(golden, num_mel_bins):
    mel = log_mel(
        golden["wav"],
        n_fft=400,
        hop_length=160,
        num_mel_bins=num_mel_bins,
        sampling_rate=16000,
        n_samples=48000,
    )
    # On an AMD EPYC 1e-6; on an Intel Xeon MKL's Fourier transform rounds otherwise, and the
    # logarithm of the quietest bins shows it: 4.9e-5.
    np.testing.assert_allclose(mel, golden[f"mel{num_mel_bins}_chunk3"], atol=1e-4, rtol=0)


def test_log_mel_equals_whispers_feature_extractor_at_another_hop():
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=40, hop_length=320, chunk_length=2, n_fft=400)
    wave = np.random.default_rng(2).normal(0, 0.1, 20000).astype(np.float32)
    settings = dataclasses.replace(SETTINGS, hop_length=320, num_mel_bins=40)
    expected = extractor(wave, sampling_rate=16000, return_tensors="np")["input_features"][0]
    np.testing.assert_allclose(waveform_to_mel(wave, settings), expected, atol=1e-6, rtol=0)


def test_silence_is_a_constant_mel():
    # log10(1e-10) = -10; its maximum less 8 is below that; (-10 + 4) / 4 = -1.5
    mel = waveform_to_mel(None, SETTINGS)
    assert mel.shape == (80, 200)
    assert (mel == -1.5).all()


def test_a_long_waveform_is_cut():
    wave = np.random.default_rng(3).normal(0, 0.1, 50000).astype(np.float32)
    np.testing.assert_array_equal(
        waveform_to_mel(wave, SETTINGS), waveform_to_mel(wave[:32000], SETTINGS)
    )


def test_audio_is_the_originals_without_its_lag(golden):
    """decord, which the original used, resamples audio 1 ms late (as measured on this clip)."""
    facts = json.loads((GOLDEN / "pre.json").read_text())["clip_audio"]
    wave = decode(GOLDEN / "clip.mp4", 1).waveform
    assert wave.dtype == np.float32
    assert len(wave) == facts["n"]
    assert float(wave.std()) == pytest.approx(facts["std"], rel=1e-3)
    window = np.arange(1000, 7900)  # the codec's first frames aside
    late = golden["clip_audio_16k"][window]

    def likeness(lag: float) -> float:
        shifted = np.interp(window - lag, np.arange(len(wave)), wave)
        return float(np.corrcoef(shifted, late)[0, 1])

    best = max(np.arange(10.0, 25.0, 0.1), key=likeness)
    assert best / 16000 == pytest.approx(1e-3, abs=1e-4)
    assert likeness(best) > 0.99999


def test_a_clip_without_audio_has_no_waveform():
    media = decode(GOLDEN / "clip_noaudio.mp4", 8)
    assert media.waveform is None
    assert media.frames.shape == (8, 64, 96, 3)
    found = probe(GOLDEN / "clip_noaudio.mp4")
    assert (found.n_frames, found.fps, found.duration, found.has_audio) == (5, 25.0, 0.2, False)


@pytest.mark.parametrize(
    ("name", "audio"),
    [
        ("odd rate.mp4", ("aac", 22050, "mono")),
        ("six channels.mp4", ("aac", 48000, "5.1")),
        ("stereo.mp4", ("aac", 44100, "stereo")),
        ("old.avi", ("mp2", 44100, "stereo")),
        ("a:b\nc 'd' \"e\" 日本 é %d.mp4", ("aac", 16000, "mono")),
    ],
)
def test_odd_clips_are_read(tmp_path, name, audio):
    path = write_clip(tmp_path / name, audio=audio)
    found = probe(path)
    assert (found.n_frames, found.fps, found.duration, found.has_audio) == (8, 8.0, 1.0, True)
    media = decode(path, 4)
    assert media.frames.shape == (4, 64, 64, 3)
    assert 16000 <= len(media.waveform) <= 16000 + 2048  # the encoder's padding
    middle = media.waveform[4000:12000]
    spectrum = np.abs(np.fft.rfft(middle))
    assert int(np.argmax(spectrum)) == 220  # 440 Hz in bins of 2 Hz


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [("avi", "mpeg4"), ("avi", "libx264"), ("ts", "mpeg4"), ("mp4", "libx264"), ("mkv", "libx264")],
)
def test_what_probe_accepts_decode_reads_at_any_width_and_number_of_frames(tmp_path, suffix, codec):
    for width in (16, 18, 24, 32, 40, 48, 64):
        path = tmp_path / f"{width}.{suffix}"
        write_clip(path, seconds=0.5, size=(width, 32), audio=None, codec=codec)
        assert probe(path).n_frames == 4
        for num_frames in (1, 4, 8, 32):
            assert decode(path, num_frames).frames.shape == (num_frames, 32, width, 3)


def test_a_relative_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "http:clip.mp4")
    assert probe(Path("http:clip.mp4")).n_frames == 8


def test_decoding_twice_gives_the_same(tmp_path):
    path = write_clip(tmp_path / "a.mp4")
    first, second = (preprocess(path, SETTINGS) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.mel, second.mel)
    assert first.has_audio


def _bad_file(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.mp4"
    if kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a video\n")
    elif kind == "folder":
        path.mkdir()
    elif kind == "unknown codec":
        path.write_bytes(write_clip(path).read_bytes().replace(b"avc1", b"none"))
    elif kind == "no video":
        write_clip(path, video=False)
    elif kind == "cut avi":
        path = write_clip(folder / "whole.avi", seconds=2, audio=None)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind.startswith("truncated"):
        whole = write_clip(folder / "whole.mp4", seconds=4, faststart="faststart" in kind)
        path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.8)])
    return path


@pytest.mark.parametrize("read", [probe, lambda path: decode(path, 8)], ids=["probe", "decode"])
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("zero bytes", "is empty$"),
        ("text", "is text, not media$"),
        ("missing", "No such file"),
        ("folder", "Is a directory"),
        ("no video", "has no video stream"),
        ("unknown codec", "cannot be decoded"),
        ("truncated", "Invalid data"),
        ("truncated faststart", r"is cut short: 46 of the 64 pieces of sound"),
        ("cut avi", r"is cut short: \d+ of the 16 frames"),
    ],
)
def test_an_unreadable_file_is_named_with_its_reason(tmp_path, kind, reason, read):
    path = _bad_file(kind, tmp_path)
    with pytest.raises(UnreadableMedia, match=reason) as first:
        read(path)
    assert str(first.value).startswith(f"{path}: ")
    assert "\n" not in str(first.value)
    with pytest.raises(UnreadableMedia) as second:
        read(path)
    assert str(first.value) == str(second.value)  # no clock, no address: rejects are reproducible
