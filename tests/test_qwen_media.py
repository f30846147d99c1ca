"""Qwen2.5-Omni's media: transformers' own processors are the oracle, and no worker imports them."""

import json
import math
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from clip_files import write_clip
from media_cases import variable_rate, write_media
from tiny_thinker import MEDIA, tiny_thinker
from transformers import Qwen2_5OmniVisionEncoderConfig, WhisperFeatureExtractor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.inference.files import PICTURE_ALONE, SOUND_ALONE, TOO_SHORT, read_file
from r1omni.media import (
    QwenMedia,
    Segment,
    UnreadableMedia,
    preprocess,
    read_segment,
    read_sound_alone,
)
from r1omni.media import qwen_omni as ours
from r1omni.model.qwen_omni.towers import as_patches, count_audio_tokens

SETTINGS = QwenMedia(4, 56 * 56, 256 * 28 * 28, "time", 16000, 30.0)
SIZES = Qwen2_5OmniVisionEncoderConfig()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def test_grids_are_those_of_smart_resize_for_200_sizes() -> None:
    rng = np.random.default_rng(0)
    pairs = np.exp(rng.uniform(np.log(10), np.log(2000), (200, 2))).astype(int).tolist()
    for pixels in ((56 * 56, 256 * 784), (100352, 602112), (784, 3136)):
        for height, width in pairs:
            found = ours.smart_resize(height, width, 28, *pixels)
            assert found == smart_resize(height, width, 28, *pixels), (height, width)
    assert {ours.smart_resize(h, w, 28, 3136, 200704) for h, w in pairs} != {(56, 56)}


def test_a_frame_like_a_thread_is_kept_within_the_limits() -> None:
    """transformers refuses sides of more than 1 : 200; a clip of them is data, not an error."""
    with pytest.raises(ValueError, match="aspect ratio"):
        smart_resize(2, 1000, 28, 3136, 200704)
    height, width = ours.smart_resize(2, 1000, 28, 3136, 200704)
    assert (height % 28, width % 28) == (0, 0)
    assert 3136 <= height * width <= 200704


@pytest.mark.parametrize("size", [(60, 90), (333, 517), (720, 480), (1080, 1920)])
def test_pixels_and_patches_are_the_pil_processors(size: tuple[int, int]) -> None:
    frame = noise(*size, 3)
    processor = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=256 * 784)
    theirs = processor(frame, return_tensors="pt")
    pixels = torch.from_numpy(SETTINGS.frames_to_pixels(np.stack([frame, frame])))
    patches, grid = as_patches(pixels, SIZES)
    assert grid.tolist() == theirs["image_grid_thw"][0].tolist()
    found = float((patches - theirs["pixel_values"]).abs().max())
    assert found <= 1e-6  # a rounding of the normalisation; a level of 255 is 0.0146


def test_patches_pair_the_frames_in_time_and_repeat_an_odd_one() -> None:
    pixels = torch.arange(3 * 3 * 56 * 56.0).view(3, 3, 56, 56)
    patches, grid = as_patches(pixels, SIZES)
    assert grid.tolist() == [2, 4, 4]
    cells = patches.view(2, 16, 3, 2, 14, 14)  # step, patch, colour, frame, row, column
    assert torch.equal(cells[0, 0, :, 0], pixels[0, :, :14, :14])
    assert torch.equal(cells[0, 0, :, 1], pixels[1, :, :14, :14])
    assert torch.equal(cells[1, 0, :, 0], cells[1, 0, :, 1])
    # a token's four patches stand together: the second is right of the first, the third below
    assert torch.equal(cells[0, 1, :, 0], pixels[0, :, :14, 14:28])
    assert torch.equal(cells[0, 2, :, 0], pixels[0, :, 14:28, :14])
    assert torch.equal(cells[0, 4, :, 0], pixels[0, :, :14, 28:42])


@pytest.mark.parametrize("shape", [(4, 240, 320), (3, 333, 517), (5, 60, 90)])
def test_patches_are_near_the_video_processors(shape: tuple[int, int, int]) -> None:
    """It resizes by torchvision, which rounds otherwise than PIL: at most 4 of 255 levels."""
    pytest.importorskip("torchvision", reason="Qwen2VLVideoProcessor imports torchvision")
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    frames = noise(*shape, 3)
    processor = Qwen2VLVideoProcessor(min_pixels=56 * 56, max_pixels=256 * 784)
    theirs = processor([torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="pt")
    patches, grid = as_patches(torch.from_numpy(SETTINGS.frames_to_pixels(frames)), SIZES)
    assert grid.tolist() == theirs["video_grid_thw"][0].tolist()
    levels = (patches - theirs["pixel_values_videos"]).abs() * min(ours.CLIP_STD) * 255
    assert float(levels.max()) <= 4
    assert float(levels.mean()) <= 0.3


@pytest.mark.parametrize("n", [321, 399, 480, 481, 4000, 16000, 47_999, 100_001])
def test_the_mel_is_the_feature_extractors_to_the_bit(n: int) -> None:
    wave = 0.3 * np.random.default_rng(n).standard_normal(n).astype(np.float32)
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=10)  # theirs pads to 300 s
    theirs = extractor(
        wave, sampling_rate=16000, return_attention_mask=True, padding="max_length",
        return_tensors="np",
    )  # fmt: skip
    valid = int(theirs["attention_mask"].sum())
    mel = SETTINGS.waveform_to_mel(wave)
    assert mel.shape == (128, valid) == (128, math.ceil(n / 160))
    assert np.array_equal(mel, theirs["input_features"][0, :, :valid])


def test_sound_is_cut_and_its_lack_is_nothing() -> None:
    short = QwenMedia(4, 3136, 200704, "time", 16000, 0.5)
    assert short.waveform_to_mel(np.ones(16000, dtype=np.float32)).shape == (128, 50)
    assert short.cuts(0.7)
    assert not short.cuts(0.6)
    assert SETTINGS.waveform_to_mel(None).shape == (128, 0)
    assert SETTINGS.without_picture().shape == (0, 3, 0, 0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "both.mp4", seconds=2.0, size=(96, 64))
    write_clip(folder / "mute.mp4", seconds=1.0, audio=None)
    write_clip(folder / "voice.m4a", seconds=1.5, video=False)
    return folder


@pytest.mark.parametrize("sampling", ["time", "index"])
def test_every_way_of_reading_knows_the_seconds_between_frames(
    sampling: str, clips: Path, tmp_path: Path
) -> None:
    settings = QwenMedia(4, 3136, 200704, sampling, 16000, 30.0)  # type: ignore[arg-type]
    assert preprocess(clips / "both.mp4", settings).frame_seconds == pytest.approx(2.0 / 4)
    large = write_media(tmp_path / "large.mp4", size=(1920, 1080), n=6, fps=3)  # read by PyAV
    assert preprocess(large, settings).frame_seconds == pytest.approx(2.0 / 4)
    uneven = variable_rate(tmp_path / "uneven.mkv")  # the last of ten seconds has no end
    assert preprocess(uneven, settings).frame_seconds == pytest.approx(10.0 / 4, abs=0.25)
    part = read_segment(Segment(clips / "both.mp4", 0.5, 1.5), settings)
    assert part.frame_seconds == pytest.approx(1.0 / 4)
    alone = read_sound_alone(clips / "voice.m4a", settings).inputs
    assert (alone.frame_seconds, len(alone.pixels)) == (0.0, 0)


def test_seconds_of_the_grid_are_those_of_two_frames(clips: Path) -> None:
    backbone = tiny_thinker()
    clip = preprocess(clips / "both.mp4", backbone.preparation)
    seconds = backbone.encode([clip])[0]["seconds"]
    assert seconds.tolist() == pytest.approx([2 * 2.0 / MEDIA.num_frames])


def test_a_decoding_worker_imports_neither_transformers_nor_torchvision(clips: Path) -> None:
    code = (
        "import sys; from r1omni.media import QwenMedia, preprocess; from pathlib import Path\n"
        "settings = QwenMedia(4, 3136, 200704, 'time', 16000, 30.0)\n"
        "clip = preprocess(Path(sys.argv[1]), settings)\n"
        "assert clip.mel.size and len(clip.pixels) == 4\n"
        "print({'transformers', 'torchvision'} & set(sys.modules))"
    )
    run = [sys.executable, "-c", code, str(clips / "both.mp4")]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "set()\n"


def test_notes_say_what_was_left_out(clips: Path) -> None:
    assert read_file(clips / "both.mp4", SETTINGS).notes == ()
    assert read_file(clips / "mute.mp4", SETTINGS).notes == (PICTURE_ALONE,)
    assert read_file(clips / "voice.m4a", SETTINGS).notes == (SOUND_ALONE,)


def write_wav(path: Path, n_samples: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(np.full(n_samples, 3000, dtype="<i2").tobytes())
    return path


def test_a_sound_that_becomes_no_token_is_no_sound(tmp_path: Path) -> None:
    """321 samples are 3 mel frames, which are a token; of 320 the prompt would hold nothing."""
    assert count_audio_tokens(SETTINGS.waveform_to_mel(np.ones(321, np.float32)).shape[1]) == 1
    assert SETTINGS.waveform_to_mel(np.ones(320, np.float32)).shape == (128, 0)
    assert read_file(write_wav(tmp_path / "long.wav", 321), SETTINGS).notes == (SOUND_ALONE,)
    for n in (0, 320):
        short = write_wav(tmp_path / f"{n}.wav", n)
        with pytest.raises(UnreadableMedia, match=rf"{n}.wav: has no picture, and too little sou"):
            read_file(short, SETTINGS)


def test_a_note_says_that_a_videos_sound_was_too_short(tmp_path: Path) -> None:
    path = tmp_path / "blip.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=8)
        video.width = video.height = 64
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for shade in range(4):
            picture = np.full((64, 64, 3), 40 * shade, dtype=np.uint8)
            picture[:, :32] = 255
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        sound = av.AudioFrame.from_ndarray(np.ones((1, 160), np.int16), format="s16", layout="mono")
        sound.sample_rate = 16000
        container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))
    assert read_file(path, SETTINGS).notes == (TOO_SHORT,)


@pytest.mark.parametrize(
    "change",
    [
        {"num_frames": 0},
        {"min_pixels": -1, "max_pixels": -1},
        {"min_pixels": 400, "max_pixels": 399},
        {"audio_seconds": 0.0},
    ],
)
def test_numbers_that_leave_nothing_to_see_or_hear_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="every number must be above 0, and max_pixels at least"):
        replace(SETTINGS, **change)


def test_predict_answers_video_with_sound_video_alone_and_sound_alone(
    clips: Path, tmp_path: Path
) -> None:
    tiny_thinker().save(tmp_path / "thinker", None)
    files = [str(clips / name) for name in ("both.mp4", "mute.mp4", "voice.m4a")]
    arguments = ["predict", *files, "--model", str(tmp_path / "thinker"), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--max-new-tokens", "6"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.split("\n") if line]
    assert [Path(line["file"]).name for line in lines] == ["both.mp4", "mute.mp4", "voice.m4a"]
    assert all(sum(line["probabilities"].values()) == pytest.approx(1) for line in lines)
    cut = "cut: the answer was stopped after 6 tokens"
    assert [line["notes"] for line in lines] == [[cut], [PICTURE_ALONE, cut], [SOUND_ALONE, cut]]
