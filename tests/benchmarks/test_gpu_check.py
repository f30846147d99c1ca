"""gpu-check without a GPU: the same code on the CPU, the released shapes on `meta`, and by hand."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forking import run_module
from torch.profiler import DeviceType

from benchmarks.gpu_check import count_results, failures, main, run
from benchmarks.gpu_compare import Distance, Learned, distance, judged
from benchmarks.gpu_page import Part, render
from benchmarks.gpu_steps import (
    SIZES,
    count_launches,
    expected,
    machine_for,
    read_profile,
    state_bytes,
)
from benchmarks.random_model import build_random, prompt_positions
from r1omni.model.sampling import Decoded

REPO = Path(__file__).parents[2]


def test_the_whole_check_runs_on_a_cpu_into_another_file(tmp_path):
    page, said = tmp_path / "page.md", tmp_path / "said"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--shapes", "tiny"]
    process = run_module([*command, "--out", str(page)], REPO, said, os.environ)
    process.join()
    assert process.exitcode == 0, said.read_text()
    text = page.read_text()
    assert text.startswith("# gpu-check on a CPU\n")
    assert "no number is a GPU's" in text
    assert "FAILED" not in text
    assert "| fp32 | 100.0% | 0 (" in text  # the CPU's distance from itself
    assert "| bf16 | 100.0% | 0 (" in text
    assert "bf16, ZeRO 3, prefix recompute; 2 clips a step" in text  # the paper's engine
    assert "| **measured peak** above the start |" in text


@pytest.fixture
def gpu_check(monkeypatch, capsys):
    """Its exit code, standard output and standard error, in this process."""

    def check(*options: str) -> tuple[object, str, str]:
        monkeypatch.chdir(REPO)
        monkeypatch.setattr(sys, "argv", ["gpu_check.py", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code, *capsys.readouterr())

    return check


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line_and_writes_nothing(gpu_check, tmp_path):
    page = tmp_path / "page.md"
    code, output, errors = gpu_check("--out", str(page))
    assert (code, output) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith("no CUDA device that torch ")
    assert not page.exists()


def test_a_cpu_does_not_write_the_gpus_page(gpu_check):
    code, _, errors = gpu_check("--device", "cpu", "--out", "benchmarks/GPU.md")
    assert code == 2
    assert "--device cpu needs --out" in errors


def test_the_released_shapes_on_meta_by_hand():
    """1,372,849,475 parameters, as benchmarks/sections/full_size.md counted; a micro-batch of 4."""
    size = SIZES["real"]
    params = read_profile(size)
    backbone = build_random(params, torch.device("meta"))
    parameters = list(backbone.module.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    assert sum(p.numel() for p in parameters) == 1_372_849_475
    assert trained == 642_405_699
    # 8.54 GiB before, of which the frozen weights took 2 B each; full_size.md had measured that
    assert state_bytes(trained, "bf16", 3) == 7_708_868_388
    frozen = 1_372_849_475 - trained
    assert (7_708_868_388 + 2 * frozen) / 2**30 == pytest.approx(8.54, abs=0.005)
    assert prompt_positions(backbone) == 973  # 392 of video, 500 of sound, 81 of text
    found = expected(backbone, params, params.machine, size, on_cuda=True)
    assert found.weights == 2 * (1_372_849_475 + 642_405_699)  # and ZeRO 3's share beside them
    # two micro-batches are averaged in float32; ZeRO 3 has its share of the sum in bfloat16
    assert found.gradients == (4 + 2) * 642_405_699
    assert found.optimizer == 12 * 642_405_699
    assert found.reference == 2 * 642_996_291  # all but the towers
    kept = 12 * 896 + 3 * 4864
    assert found.activations == 2 * (24 + 2) * kept * 4 * (973 + 8 * 150)
    assert found.workspace == 2.5e9 + 1e9  # ZeRO's bucket


def test_states_of_other_engines_by_hand():
    assert state_bytes(10, "fp32", 0) == 120  # weights, two moments
    assert state_bytes(10, "bf16", 2) == 140  # and the bfloat16 weights


def test_a_small_card_gets_the_largest_micro_batch_that_fits(monkeypatch):
    size = SIZES["real"]
    params = read_profile(size)
    backbone = build_random(params, torch.device("meta"))
    card = SimpleNamespace(total_memory=141e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: card)

    def chosen(memory: float) -> tuple[int | None, bool]:
        card.total_memory = memory
        machine = machine_for(backbone, params, size, torch.device("cuda"))
        assert (machine.device, machine.processes) == ("cuda", 1)
        return machine.micro_batch_size, machine.gradient_checkpointing

    assert chosen(141e9) == (4, False)
    total = expected(backbone, params, params.machine, size, on_cuda=True).total
    assert chosen(total / 0.9 - 1e6) == (2, False)
    assert chosen(10e9) == (1, True)


def test_launches_kernels_and_syncs_are_told_apart():
    def event(device: DeviceType, name: str) -> SimpleNamespace:
        return SimpleNamespace(device_type=device, name=name)

    events = [
        event(DeviceType.CUDA, "gemm"),
        event(DeviceType.CUDA, "Memcpy HtoD (Pageable -> Device)"),
        event(DeviceType.CUDA, "rms_norm"),
        event(DeviceType.CPU, "cudaLaunchKernel"),
        event(DeviceType.CPU, "cudaGraphLaunch"),  # one launch of both
        event(DeviceType.CPU, "cudaMemcpyAsync"),
        event(DeviceType.CPU, "cudaStreamSynchronize"),
        event(DeviceType.CPU, "aten::mm"),
    ]
    assert count_launches(events) == {"kernels": 2, "launches": 2, "syncs": 1}


def test_distances_by_hand():
    ids = torch.tensor([[[1, 2, 3, 4]]])
    other = torch.tensor([[[1, 2, 9, 4]]])  # the last one agrees again, after another context
    gaps = torch.tensor([[[0.1, 0.3, 5.0, 7.0]]])
    ones = torch.ones(1, 1, 4)
    here = Learned(Decoded(ids, torch.zeros(1, 1, 4), ones, ones), 1.0, torch.tensor([3.0, 4.0]))
    there = replace(here, sampled=Decoded(other, gaps, ones, ones), loss=1.5,
                    gradient=torch.tensor([3.0, 5.0]))  # fmt: skip
    assert distance(here, here) == Distance(1.0, 0.0, 0.0, 0.0)
    found = distance(there, here)
    assert found.same_tokens == 0.5
    assert found.logprobs == pytest.approx(0.3)
    assert (found.loss, found.gradient) == (0.5, pytest.approx(0.2))
    assert judged(found, 0.31, 0.21)["holds"]
    assert not judged(found, 0.29, 0.21)["holds"]
    assert not judged(found, 0.31, 0.19)["holds"]


def test_a_part_that_fails_is_on_the_page_and_in_the_exit(monkeypatch):
    assert count_results("x\n2 failed, 3 passed, 1 skipped in 2.10s\n") == {
        "failed": 2, "passed": 3, "skipped": 1
    }  # fmt: skip
    assert count_results("") == {}
    broken = run(["json.tool", "no such file"], 30.0)
    assert "no such file" in broken.failure
    assert broken.failure.startswith("exit code 2\n")
    silent = run(["timeit", "-n", "1", "-r", "1", "import os; os.kill(os.getpid(), 9)"], 30.0)
    assert (silent.found, silent.failure) == ({}, "exit code -9")
    talking = run(["timeit", "-n", "1", "-r", "1", "pass"], 30.0)
    assert talking.failure.startswith("no numbers on its last line: '1 loop")
    late = run(["timeit", "-n", "1", "-r", "1", "import time; time.sleep(60)"], 0.5)
    assert late.failure == "not done after 0.5 s, and ended"
    row = judged(Distance(1.0, 0.0, 0.0, 0.5), 1.0, 0.1)
    parts = {"tests": late, "compare": Part(1.0, {"fp32": row}), "steps": broken}
    assert [line.split(":")[0] for line in failures(parts, "cuda")] == ["tests", "steps", "compare"]
    text = render({"device": "none"}, parts, "cuda")
    assert text.count("FAILED:") == 2
    assert "| 0.5 (0.1) | NO |" in text


@pytest.mark.parametrize(
    ("device", "last_line", "n_problems"),
    [
        ("cuda", "21 passed in 30.1s", 0),
        ("cuda", "21 skipped in 2.1s", 1),
        ("cuda", "15 passed, 6 skipped in 30.1s", 0),
        ("cuda", "", 1),
        ("cpu", "21 skipped in 2.1s", 0),
    ],
)
def test_on_a_gpu_tests_that_were_all_skipped_are_a_failure(device, last_line, n_problems):
    tests = Part(1.0, count_results(last_line))
    parts = {"tests": tests, "compare": Part(1.0, {}), "steps": Part(1.0, {})}
    assert len(failures(parts, device)) == n_problems


def test_the_table_of_a_step_by_hand():
    step = {
        "wall": 2.0, "time/step": 2.0, "time/prefill": 0.25, "time/sample": 1.0,
        "time/update": 0.25,
    }  # fmt: skip
    flop = {"prefill": 1e9, "decode": 2e9, "policy and reference forward": 3e9, "backward": 4e9}
    size = {"profile": "p", "clips": 1, "group_size": 2, "new_tokens": 50, "side": 8}
    found = {
        "size": size, "dtype": "bf16", "parameters": {"all": 9, "trained": 8}, "prompt": 7,
        "machine": {"zero_stage": 3, "prefix": "reuse", "micro_batch_size": None,
                    "gradient_checkpointing": False},
        "steps": [step], "tokens": 100, "flop": flop, "matmul_rate": 1e10,
        "launches": {"launches": 380.0, "kernels": 400.0, "syncs": 0.0625},
        "peak": 5e9, "estimate": {"weights": 3e9, "workspace": 1e9}, "state": 2e9,
        "state_expected": 1.9e9,
    }  # fmt: skip
    parts = {"tests": Part(1.0, {}), "compare": Part(1.0, {}), "steps": Part(1.0, found)}
    text = render({}, parts, "cuda")
    assert "| 1 | whole | 2.000 | 50 | 50.0% |" in text  # 10e9 / 2 s of 1e10
    assert "| 1 | decode | 1.000 | 100 | 20.0% |" in text
    assert "| 1 | learn | 0.500 |  | 140.0% |" in text  # 7e9 in the half second that is left
    assert "takes 380.0 launches, 400.0 kernels and 0.06 host syncs" in text
    assert "| **estimate** (training/memory.py) | 4.000 |" in text
    assert "| **measured peak** above the start | 5.000 |" in text
