"""`predict` on any media file: what is read, what is said about it, what is refused."""

import copy
import json
import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clip_files import LIMITS, write_clip
from known_labels import LABELS
from noise import noise_features
from typer.testing import CliRunner

from r1omni import completions
from r1omni.cli import app
from r1omni.corpora.clip import Clip, write_manifest
from r1omni.emotions import EMOTIONS
from r1omni.inference.answer import Answer, answer_files, read_answer
from r1omni.inference.files import NO_AUDIO, NO_VIDEO, Refusal, read_file
from r1omni.inference.probabilities import label_probabilities
from r1omni.judges.reader import Reader
from r1omni.judging import judge
from r1omni.media import UnreadableMedia, decode, preprocess, waveform_to_mel
from r1omni.model.feature_store import FeatureStore
from r1omni.model.features import run_features
from r1omni.model.humanomni.backbone import HumanOmniBackbone

SHORT = {"batch_size": 4, "max_new_tokens": 3}


def write_sound(path: Path, codec: str, rate: int, seconds: float = 1.0, cover: bool = False):
    """A 440 Hz tone alone, or with an album's cover."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mjpeg", rate=1) if cover else None
        stream = container.add_stream(codec, rate=rate, layout="mono")
        if picture is not None:
            picture.width = picture.height = 32
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            blank = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            container.mux(picture.encode(blank))
            container.mux(picture.encode())
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
        kind = stream.codec_context.format.name
        tops = {"s16": (32767, np.int16), "s32": (2.0**30, np.int32), "flt": (1.0, np.float32)}
        top, dtype = tops[kind[:3]]
        samples = (tone * top).astype(dtype)
        for start in range(0, len(samples), 960):
            piece = np.ascontiguousarray(samples[None, start : start + 960])
            frame = av.AudioFrame.from_ndarray(piece, format=kind, layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_pictures(path: Path, codec: str, kind: str = "yuv420p", n: int = 8):
    """`n` different pictures without any sound."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, kind
        for _ in range(n):
            pixels = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Ten very different files, four that are no clips, and a note that is no media file."""
    folder = tmp_path_factory.mktemp("files")
    write_clip(folder / "plain.mp4")
    write_clip(folder / "ünï 'code' \n.mkv", audio=("flac", 44100, "stereo"), size=(80, 48))
    write_pictures(folder / "mute.webm", "libvpx")
    write_pictures(folder / "moving.gif", "gif", "rgb8")
    write_clip(folder / "old.avi", size=(48, 96), audio=("pcm_s16le", 8000, "mono"), seconds=0.5)
    write_clip(folder / "stream.ts", audio=("aac", 48000, "5.1"))
    write_clip(folder / "long.mp4", seconds=3.0)
    write_sound(folder / "song.mp3", "libmp3lame", 44100, cover=True)
    write_sound(folder / "voice.wav", "pcm_s16le", 22050)
    write_sound(folder / "call.ogg", "libopus", 48000, seconds=2.5)
    whole = (folder / "plain.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video")
    write_clip(folder / "bare.mp4", audio=None, video=True, seconds=0.125)
    (folder / "notes.txt").write_text("not looked at")
    return folder


@pytest.fixture(scope="module")
def outcomes(files, tiny) -> dict[str, Answer | Refusal]:
    """What comes back for the folder, by file name."""
    found = answer_files([str(files)], tiny, labels=EMOTIONS, **SHORT, limits=LIMITS)
    return {Path(o.name).name if isinstance(o, Refusal) else o.path.name: o for o in found}


def test_ten_very_different_files_are_answered_and_what_was_missing_is_said(outcomes):
    answers = {name: o for name, o in outcomes.items() if isinstance(o, Answer)}
    said = {
        name: [n for n in answer.notes if not n.startswith("cut: the answer")]
        for name, answer in answers.items()
    }
    assert said == {
        "plain.mp4": [],
        "ünï 'code' \n.mkv": [],
        "mute.webm": [NO_AUDIO],
        "moving.gif": [NO_AUDIO],
        "old.avi": [],
        "stream.ts": [],
        "long.mp4": ["cut: the model heard the first 2 of 3.0 s of sound"],
        "song.mp3": [NO_VIDEO],
        "voice.wav": [NO_VIDEO],
        "call.ogg": [NO_VIDEO, "cut: the model heard the first 2 of 2.5 s of sound"],
        "bare.mp4": ["all sampled frames are the same picture", NO_AUDIO],
    }
    for answer in answers.values():
        assert set(answer.probabilities) == set(EMOTIONS)
        assert math.isclose(sum(answer.probabilities.values()), 1.0, abs_tol=1e-9)


def test_what_is_no_clip_is_refused_with_the_reason(outcomes):
    refused = {name: o.reason for name, o in outcomes.items() if isinstance(o, Refusal)}
    assert set(refused) == {"cut.mp4", "empty.mp4", "text.mp4"}
    assert "cannot be decoded" in refused["cut.mp4"]
    assert "is empty" in refused["empty.mp4"]
    assert "is text, not media" in refused["text.mp4"]
    assert "notes.txt" not in outcomes


def test_a_file_that_is_not_there_is_refused(tiny, tmp_path):
    with pytest.raises(UnreadableMedia, match=r"nowhere\.mp4: no such file"):
        read_file(tmp_path / "nowhere.mp4", tiny.processor.media)


def test_predict_sees_exactly_what_training_sees(files, tiny, tmp_path, monkeypatch):
    """The train/inference skew of pixels, mel and tower outputs is zero, bit for bit."""
    model, processor = tiny.model, tiny.processor
    monkeypatch.chdir(tmp_path)
    clip = Clip(
        "dfew/1", "dfew", "plain.mp4", "happy", "train", 1, None, None, 1.0, 8.0, 8, True, "x"
    )  # fmt: skip
    write_manifest([clip], tmp_path / "m.parquet")
    model.save_pretrained(tmp_path / "c")
    processor.save_pretrained(tmp_path / "c")

    run_features(
        tmp_path / "m.parquet", files, tmp_path / "c", tmp_path / "out/dfew",
        batch_size=1, workers=1, min_free_gb=0.0, limits=LIMITS,
    )  # fmt: skip
    cached = FeatureStore([tmp_path / "out/dfew"]).load(["dfew/1"])
    read = read_file(files / "plain.mp4", processor.media)
    trained = preprocess(files / "plain.mp4", processor.media)
    assert np.array_equal(read.inputs.pixels, trained.pixels)
    assert np.array_equal(read.inputs.mel, trained.mel)
    ours = tiny.encode([read.inputs])
    assert ours[0].keys() == cached[0].keys() == {"vision", "audio"}
    assert all(torch.equal(ours[0][name], tensor) for name, tensor in cached[0].items())


def test_sound_alone_is_heard_as_the_same_sound_in_a_video(tiny, tmp_path):
    settings = tiny.processor.media
    write_clip(tmp_path / "both.mkv", audio=("flac", 44100, "stereo"))
    with av.open(str(tmp_path / "both.mkv")) as source, av.open(str(tmp_path / "s.mka"), "w") as to:
        stream = to.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                to.mux(packet)
    both = decode(tmp_path / "both.mkv", 4, settings.sampling_rate)
    alone = read_file(tmp_path / "s.mka", settings)
    assert alone.notes == (NO_VIDEO,)
    assert np.array_equal(alone.inputs.mel, waveform_to_mel(both.waveform, settings))


def oracle(model, processor, vision, audio, ids: list[int]) -> float:
    """The log probability of a whole completion, by one plain forward pass."""
    from r1omni import prompts

    question = prompts.instruction(model.config.answer_mode)
    prompt = processor.encode_prompt(question)
    gate_ids, gate_mask = (torch.tensor([x]) for x in processor.encode_gate(question))
    logits = model(
        torch.tensor([prompt + ids]),
        vision_features=vision,
        audio_features=audio,
        gate_input_ids=gate_ids,
        gate_attention_mask=gate_mask,
    ).logits[0]
    rows = torch.log_softmax(logits[-len(ids) - 1 : -1].double(), dim=-1)
    return float(rows.gather(1, torch.tensor(ids)[:, None]).sum())


@torch.no_grad()
def test_probabilities_are_those_of_the_whole_completions_with_each_label(tiny):
    model, processor = copy.deepcopy(tiny.model), tiny.processor
    model.config.answer_mode = "reasoned"
    for parameter in model.lm_head.parameters():
        parameter.mul_(8.0)  # a random head is nearly indifferent
    config = model.config
    torch.manual_seed(3)
    features = noise_features(config, 3)
    texts = ["<think>the mouth smiles</think>\n<answer>glad</answer>", "<think>no end",
             "<think>a</think> <answer>sad</answer>"]  # fmt: skip
    labels = LABELS["dfew"]
    backbone = HumanOmniBackbone(model, processor)
    found = label_probabilities(backbone, features, texts, labels)
    assert found[1] is None
    for row in (0, 2):
        head = texts[row].split("<answer>")[0]
        scores = torch.tensor(
            [
                oracle(
                    model, processor, features[row]["vision"][None], features[row]["audio"][None],
                    processor.encode_completion(f"{head}<answer>{label}</answer>"),
                )
                for label in labels
            ]
        )  # fmt: skip
        expected = torch.softmax(scores.double(), dim=0)
        assert expected.max() > 0.25  # not indifferent
        got = torch.tensor([found[row][label] for label in labels], dtype=torch.float64)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)
    assert completions.parse(texts[0]) is not None


@pytest.mark.parametrize(
    ("completion", "mode", "first"),
    [
        ("<think>a</think>\n<answer>sad</answer>", "reasoned", "a.mp4: sad"),
        ("<think>a</think>\n<answer>melancholy</answer>", "reasoned",
         'a.mp4: no known emotion ("melancholy")'),
        ("<think>a", "reasoned", "a.mp4: no known emotion"),
        ("The man\nis blue.", "direct", 'a.mp4: no known emotion ("The man is blue.")'),
    ],
)  # fmt: skip
def test_an_answer_outside_the_vocabulary_is_shown(completion, mode, first):
    answer = Answer(Path("a.mp4"), completion, judge(completion, mode), None, ())
    assert answer.as_text().splitlines()[0] == first


def test_the_command_prints_json_lines_and_its_exit_code_counts_refusals(
    tiny, files, repo, tmp_path
):
    model, processor = tiny.model, tiny.processor
    model.save_pretrained(tmp_path / "c")
    processor.save_pretrained(tmp_path / "c")
    command = ["predict", files / "plain.mp4", files / "text.mp4", "--model", tmp_path / "c",
               "--labels", "ravdess", "--params", repo / "params.yaml"]  # fmt: skip
    done = CliRunner().invoke(app, [*map(str, command), "--json"])
    assert done.exit_code == 1, done.output
    answered, refused = map(json.loads, done.stdout.splitlines())
    assert set(answered["probabilities"]) == set(LABELS["ravdess"])
    assert answered["file"].endswith("plain.mp4")
    assert "is text, not media" in refused["refused"]

    done = CliRunner().invoke(app, [*map(str, [*command[:2], *command[3:]])])
    assert done.exit_code == 0, done.output
    first = max(answered["probabilities"].items(), key=lambda item: item[1])
    assert f"  {first[0]} {first[1]:.2f} · " in done.stdout


def test_a_reader_answers_from_the_rationale_in_the_models_place():
    reader = Reader(
        labels=("happy", "sad"),
        words=False,
        features={"brows +1": 0},
        weights=np.array([[np.log(3.0), 0.0]]),
        bias=np.zeros(2),
        accuracy=1.0,
        n=2,
    )
    completion = "<think>The brows are raised.</think>\n<answer>sad</answer>"
    own = Answer(Path("a.mp4"), completion, judge(completion, "reasoned"), {"sad": 1.0}, ())
    read = read_answer(own, reader, ("happy", "sad", "fear"))
    assert (read.prediction, own.prediction) == ("happy", "sad")
    assert read.probabilities == pytest.approx({"happy": 0.75, "sad": 0.25, "fear": 0.0})
    assert read.as_text().startswith("a.mp4: happy, read from the rationale (the model: sad)")
    assert json.loads(read.as_json())["answered_by"] == "reader"
    assert json.loads(own.as_json())["answered_by"] == "model"
    direct = Answer(Path("a.mp4"), "sad", judge("sad", "direct"), {"sad": 1.0}, ())
    kept = read_answer(direct, reader, ("sad",))
    assert kept.prediction == "sad" and "no rationale for a reader" in kept.notes[0]
