"""Which device a rank trains on: one each, or the CPU for all, or a clear refusal."""

import os
from datetime import timedelta

import pytest
import torch
import toy
from torch import distributed

from r1omni.machine import ranks
from r1omni.machine.device import own_device
from r1omni.training.deepspeed_setup import import_deepspeed, refuse_other_device


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many CUDA devices, and a rank of it that joins what is noted."""
    joined = []
    for name in (*ranks.LOCAL_SIZES, "DS_ACCELERATOR"):
        monkeypatch.setenv(name, "")  # so that it is put back, whatever join_ranks sets
        monkeypatch.delenv(name)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: joined.append(str(device)))
    monkeypatch.setattr(distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(distributed, "init_process_group", lambda *a, **k: joined.append((a, k)))
    monkeypatch.setattr(distributed, "new_group", lambda **how: joined.append(how))
    monkeypatch.setattr(ranks, "_step_group", None)
    monkeypatch.setattr(ranks, "_store", distributed.HashStore)  # the others are not there
    monkeypatch.setattr(ranks, "_check_device_kinds", lambda *_: None)

    def with_devices(count, **environment):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.setenv(name, environment.get(name, "01"[name == "WORLD_SIZE"]))
        for name in environment.keys() & set(ranks.LOCAL_SIZES):
            monkeypatch.setenv(name, environment[name])
        return joined

    return with_devices


def params(device, processes=1):
    return toy.machine_params(device=device, processes=processes)


@pytest.mark.parametrize("device", ["auto", "cuda"])
@pytest.mark.parametrize("name", ranks.LOCAL_SIZES)
def test_a_rank_of_the_second_machine_takes_its_own_device_and_tells_nccl(machine, device, name):
    joined = machine(4, RANK="6", LOCAL_RANK="2", WORLD_SIZE="8", **{name: "4"})
    assert ranks.join_ranks(params(device)) == torch.device("cuda", 2)
    assert joined[0] == "cuda:2"
    (backend,), given = joined[1]
    assert (backend, given["rank"], given["device_id"]) == ("nccl", 6, torch.device("cuda", 2))
    assert joined[2] == {"backend": "gloo", "timeout": timedelta(seconds=300)}  # of steps
    assert os.environ["DS_ACCELERATOR"] == "cuda"


def test_more_processes_than_devices_train_on_the_cpu_and_say_so(machine, caplog):
    joined = machine(1, RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    assert ranks.join_ranks(params("auto", 2)) == torch.device("cpu")
    ((backend,), given), _of_steps = joined
    assert (backend, given["device_id"]) == ("gloo", None)
    assert "2 processes of this machine would share 1 CUDA device: training on the CPU; " in (
        caplog.text
    )
    assert os.environ["DS_ACCELERATOR"] == "cpu"


def test_who_asks_for_cuda_gets_a_device_for_each_or_is_told_how_many_there_are(machine):
    machine(2, RANK="0", LOCAL_RANK="0", WORLD_SIZE="4", LOCAL_WORLD_SIZE="4")
    with pytest.raises(ValueError, match=r"4 processes .* share 2 CUDA devices: set machine\.proc"):
        ranks.join_ranks(params("cuda", 4))
    machine(0)
    with pytest.raises(ValueError, match="this machine has no CUDA device"):
        ranks.join_ranks(params("cuda"))


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_launcher_that_does_not_say_how_many_share_the_machine_is_trusted(machine, device):
    """One pod of many, or one task of Slurm's: 8 ranks, of which some are elsewhere."""
    machine(4, RANK="7", LOCAL_RANK="3", WORLD_SIZE="8")
    assert ranks.join_ranks(params(device)) == torch.device("cuda", 3)
    machine(1, RANK="7", WORLD_SIZE="8")
    assert ranks.join_ranks(params(device)) == torch.device("cuda", 0)
    machine(2, RANK="7", LOCAL_RANK="3", WORLD_SIZE="8")
    with pytest.raises(ValueError, match="4 processes of this machine would share 2 CUDA devices"):
        ranks.join_ranks(params(device))


def test_one_of_several_machines_does_not_fall_back_alone(machine):
    machine(2, RANK="4", LOCAL_RANK="0", WORLD_SIZE="8", LOCAL_WORLD_SIZE="4")
    with pytest.raises(ValueError, match="4 processes of this machine would share 2 CUDA devices"):
        ranks.join_ranks(params("auto"))


def test_ranks_on_different_kinds_of_device_all_refuse():
    store = distributed.HashStore()
    store.set("r1omni-device-0", "cuda")
    store.set("r1omni-device-1", "cuda")
    for rank in (2, 0):
        kind = {2: "cpu", 0: "cuda"}[rank]
        with pytest.raises(ValueError, match="rank 0 would train on cuda and rank 2 on cpu"):
            ranks._check_device_kinds(store, kind, rank, 3)
    store.set("r1omni-device-2", "cuda")
    ranks._check_device_kinds(store, "cuda", 1, 3)


@pytest.mark.parametrize(("count", "device"), [(0, "auto"), (0, "cpu"), (3, "cpu")])
def test_the_cpu_is_taken_where_it_is_asked_for_or_alone(machine, caplog, count, device):
    joined = machine(count)
    os.environ["DS_ACCELERATOR"] = "cuda"  # of another day
    assert ranks.join_ranks(params(device)) == torch.device("cpu")
    assert joined[0][0] == ("gloo",)
    assert os.environ["DS_ACCELERATOR"] == "cpu"
    assert not caplog.text


def test_deepspeed_loaded_for_another_device_is_an_error(monkeypatch):
    if not torch.cuda.is_available():
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # it may be loaded here, and stays loaded
    deepspeed = import_deepspeed()
    refuse_other_device(deepspeed, torch.device(deepspeed.accelerator.get_accelerator()._name))
    with pytest.raises(RuntimeError, match="one process trains on one kind of device"):
        refuse_other_device(deepspeed, torch.device("meta"))


@pytest.mark.parametrize(
    ("count", "device", "rank", "expected"),
    [
        (0, "auto", 0, "cpu"),
        (2, "cpu", 0, "cpu"),
        (2, "auto", 1, "cuda:1"),
        (1, "cuda", 1, "cuda:0"),
    ],
)
def test_towers_and_answers_take_the_ranks_device(monkeypatch, count, device, rank, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert own_device(device) == torch.device(expected)
    assert torch.backends.cuda.cudnn_sdp_enabled() == (expected == "cpu")
