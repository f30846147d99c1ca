"""`r1omni predict` as it is typed: in any folder, answers as they come, stopped by Ctrl-C."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from clip_files import LIMITS, write_clip
from forking import run_module
from noise import noise_features
from typer.testing import CliRunner

from r1omni.cli import app
from r1omni.commands.command import printable
from r1omni.emotions import EMOTIONS
from r1omni.inference.answer import answer_batches, answer_read_files
from r1omni.inference.files import ReadFile, Refusal
from r1omni.inference.greedy import answer_batch
from r1omni.inference.options import DEFAULTS, choose_options
from r1omni.inference.probabilities import label_probabilities
from r1omni.media import TowerInputs, waveform_to_mel
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.params_file import ParamsError

N_FILES = 200


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.model.save_pretrained(folder)
    tiny.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """A folder of 200 short clips: copies of one, lest writing them takes longer than the test."""
    folder = tmp_path_factory.mktemp("many")
    first = write_clip(folder / "000.mp4", seconds=0.5)
    for i in range(1, N_FILES):
        shutil.copy(first, folder / f"{i:03}.mp4")
    return folder


def test_the_first_answer_waits_for_no_other_and_batches_grow(tiny, many):
    files = [*sorted(many.iterdir())[:17], Refusal("x", "is no file"), many / "nowhere.mp4"]
    short = {"batch_size": 8, "max_new_tokens": 2}
    batches = list(answer_batches(files, tiny, labels=EMOTIONS, **short, limits=LIMITS))
    assert [len(batch) for batch in batches] == [1, 2, 4, 8, 4]
    outcomes = [outcome for batch in batches for outcome in batch]
    assert [getattr(o, "path", None) for o in outcomes[:17]] == files[:17]
    assert [o.reason for o in outcomes[17:]] == ["is no file", "no such file"]


@torch.no_grad()
def test_an_answer_does_not_depend_on_the_batch_that_it_is_in(tiny):
    """Rationales of many lengths, so that the rows of a batch are padded differently."""
    model, processor = copy.deepcopy(tiny.model), tiny.processor
    model.config.answer_mode = "reasoned"
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "tower" not in name:
            parameter.mul_(3.0)  # a random model says the same of every clip
    config = model.config
    torch.manual_seed(4)
    every = noise_features(config, 9)
    backbone = HumanOmniBackbone(model, processor)

    def asked(rows: list[int]) -> tuple[list[str], list[dict[str, float]]]:
        features = [every[i] for i in rows]
        said = [a.completion for a in answer_batch(backbone, features, 24)]
        texts = [f"<think>{'it smiles ' * (i + 1)}</think>\n<answer>sad</answer>" for i in rows]
        return said, label_probabilities(backbone, features, texts, EMOTIONS)

    alone = [asked([i]) for i in range(9)]
    assert len({said for (said,), _ in alone}) > 4
    for rows in (list(range(9)), [8, 2], [3, 1, 7, 0]):
        said, probabilities = asked(rows)
        for i, text, chances in zip(rows, said, probabilities, strict=True):
            assert text == alone[i][0][0]
            assert chances == pytest.approx(alone[i][1][0], abs=1e-5)


@torch.no_grad()
def test_rationale_and_probabilities_are_those_of_the_clip_alone_to_the_last_digit(tiny):
    model = copy.deepcopy(tiny.model)
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "tower" not in name:
            parameter.mul_(3.0)
    backbone = HumanOmniBackbone(model, tiny.processor)
    rng = np.random.default_rng(5)
    shape = (model.config.num_frames, 3, 48, 48)
    mel_shape = waveform_to_mel(np.zeros(32000, np.float32), tiny.processor.media).shape
    files = [
        ReadFile(
            Path(str(i)),
            TowerInputs(
                rng.standard_normal(shape, dtype=np.float32),
                rng.standard_normal(mel_shape, dtype=np.float32),
                True,
            ),
            (),
        )
        for i in range(7)
    ]
    alone = [answer_read_files([file], backbone, EMOTIONS, 12)[0] for file in files]
    assert len({answer.completion for answer in alone}) > 3
    for rows in ([0, 1, 2, 3, 4, 5, 6], [6, 2], [5, 0, 3]):
        together = answer_read_files([files[i] for i in rows], backbone, EMOTIONS, 12)
        assert together == [alone[i] for i in rows]  # floats too


def test_ctrl_c_leaves_what_was_answered_no_process_and_code_130(checkpoint, many, tmp_path):
    """In a folder without params.yaml. A terminal sends SIGINT to the workers too."""
    command = [sys.executable, "-m", "r1omni.cli", "predict", str(many), "--json"]
    command += ["--model", str(checkpoint), "--max-new-tokens", "40"]
    output, errors = tmp_path / "output", tmp_path / "errors"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = run_module(command, tmp_path, output, environment, os.setsid, errors)
    while not output.exists() or "\n" not in output.read_text():
        assert process.is_alive(), errors.read_text()
        time.sleep(0.02)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    process.join(timeout=600)
    assert process.exitcode == 130
    said = errors.read_text()
    answered = [json.loads(line) for line in output.read_text().splitlines()]
    assert [Path(a["file"]).name for a in answered] == [f"{i:03}.mp4" for i in range(len(answered))]
    assert len(answered) < N_FILES
    assert said.splitlines()[-1] == f"stopped: {len(answered)} of {N_FILES} answered"
    assert "Traceback" not in said
    assert children
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive


def test_without_params_the_options_have_defaults_and_params_yaml_is_used_if_there(
    repo, params, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert choose_options(None, False, {"threads": None}) == DEFAULTS
    assert choose_options(None, False, {"device": "cpu"}).device == "cpu"
    with pytest.raises(ParamsError, match=r"nowhere\.yaml: cannot be read: .*pass --params FILE"):
        choose_options(Path("nowhere.yaml"), False, {})
    shutil.copy(repo / "params.yaml", tmp_path)
    ours = choose_options(None, False, {"batch_size": 3})
    assert (ours.batch_size, ours.max_new_tokens) == (3, params.predict.max_new_tokens)
    assert (ours.limits, ours.threads) == (params.limits, params.machine.threads)
    assert ours.tracking == params.tracking
    (tmp_path / "params.yaml").write_text("train: {lr: 0.1}\n")  # another program's
    with pytest.raises(ParamsError, match=r"train: unknown key.*\n(.*\n)*.*pass --no-params"):
        choose_options(None, False, {})
    assert choose_options(None, True, {}) == DEFAULTS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["predict", "a.mp4"],
            "data/checkpoints/grpo: no such folder.*Pass one of them as --model",
        ),
        (
            ["predict", "a.mp4", "--model", "models:/r1-omni@champion"],
            "there is no params.yaml here",
        ),
        (["evaluate", "--model", "x", "--corpus", "dfew"], "run this in the project's folder"),
    ],
)
def test_what_is_missing_in_another_folder_is_said_with_what_to_pass(
    arguments, said, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    with pytest.raises(ValueError, match=said):
        raise done.exception


def test_the_version_is_printed_in_any_folder_without_torch(tmp_path):
    script = (
        "import sys; sys.argv = ['r1omni', '--version']\n"
        "from r1omni.cli import app\n"
        "try: app()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'av', 'dvc', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("r1omni 0.") and "(Python 3." in done.stdout


def test_a_model_cannot_steer_the_terminal():
    assert printable("sad\x1b[2J\x07\u202e\n  lines stay") == "sad [2J  \n  lines stay"
