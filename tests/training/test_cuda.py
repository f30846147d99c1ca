"""The machine and the stages on a real CUDA device, against the CPU; NCCL where there are two.

test_pretended_gpu.py walks the same code where there is none, but for DeepSpeed and NCCL.
"""

import json
import shutil

import pytest
import torch
import toy
from forked import Ranks, train
from test_engine_ranks import DTYPES, ZERO, curves_of, trained, walk

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

SIZES = (1, 2)


@pytest.fixture(scope="module")
def walked(world, tmp_path_factory):
    """What every ZeRO stage and dtype did, by number of processes."""
    found = {}
    for size in SIZES[: torch.cuda.device_count()]:
        folder = tmp_path_factory.mktemp(f"cuda-{size}")
        codes = Ranks(folder, size, walk, world, folder, "cuda").wait(600.0)
        assert codes == [0] * size, (folder / "said-0").read_text()[-3000:]
        found[size] = json.loads((folder / "found.json").read_text())
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("zero_stage", ZERO)
def test_every_zero_stage_and_dtype_trains_saves_resumes_and_exports(
    walked, zero_stage, dtype, size
):
    if size not in walked:
        pytest.skip(f"{size} CUDA devices are needed, {len(walked)} found")
    found = walked[size][f"{zero_stage}-{dtype}"]
    assert found["resumed_at"] == 2
    assert found["moved"] > 1e-3
    assert found["resumed_apart"] <= {"fp32": 1e-4, "bf16": 0.1}[dtype]  # sums are not in one order
    assert found["exported_equal"]
    assert found["dtype"] == {"fp32": "torch.float32", "bf16": "torch.bfloat16"}[dtype]
    plain = walked[1]["0-fp32"]
    tolerance = 1e-3 if dtype == "fp32" else 0.05
    assert found["loss"] == pytest.approx(plain["loss"], rel=tolerance)


@pytest.mark.parametrize("kind", ["grpo", "sft"])
def test_the_first_step_is_the_cpus_and_a_killed_training_ends_as_it_would_have(
    world, tmp_path, kind
):
    cpu = curves_of(trained(tmp_path / "cpu", 1, kind, world, {}))
    folder = tmp_path / "cuda"
    machine = {"device": "cuda", "save_every": 2}
    curves = curves_of(trained(folder, 1, kind, world, machine))
    assert [row.keys() for row in curves] == [row.keys() for row in cpu]
    assert curves[0] == pytest.approx(cpu[0], rel=1e-3, abs=1e-6)
    shutil.rmtree(folder / "checkpoint")  # as if it had been killed in its last steps
    kept = next(toy.state_in(folder).glob("step-*")) / "kept"
    kept.touch()  # a state made again would not have it
    again = curves_of(trained(folder, 1, kind, world, machine))
    assert kept.exists()
    assert again[-1] == pytest.approx(curves[-1], rel=1e-2, abs=1e-4)


@pytest.mark.parametrize("prefix", ["reuse", "recompute"])
def test_grpo_in_bfloat16_trains_in_micro_batches_with_checkpointing(world, tmp_path, prefix):
    machine = {
        "device": "cuda", "dtype": "bf16", "zero_stage": 2, "micro_batch_size": 1,
        "gradient_checkpointing": True,
    }  # fmt: skip
    curves = curves_of(trained(tmp_path, 1, "grpo", world, machine | {"prefix": prefix}, steps=3))
    # The reference is the start. Its products may be another kernel's: under ZeRO the policy's
    # weights are parts of one tensor, at other addresses.
    assert curves[0]["train/kl"] == pytest.approx(0.0, abs=1e-4)
    assert curves[-1]["optim/grad_norm"] > 0.0


def test_two_devices_learn_what_one_does(world, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("two CUDA devices are needed")
    one = curves_of(trained(tmp_path / "1", 1, "grpo", world, {"device": "cuda"}))
    machine = {"device": "cuda", "processes": 2, "zero_stage": 2}
    assert Ranks(tmp_path / "2", 2, train, "grpo", world, tmp_path / "2", machine, {}).wait() == [
        0, 0
    ]  # fmt: skip
    assert curves_of(tmp_path / "2")[0] == pytest.approx(one[0], rel=1e-3, abs=1e-6)
