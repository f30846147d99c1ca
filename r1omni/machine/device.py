"""Where a model runs that is not in training: towers, answers."""

from typing import Literal

import torch

from r1omni.machine.environment import local_rank

Device = Literal["auto", "cpu", "cuda"]  # params.yaml: machine.device
NO_DEVICE = (
    "machine.device is cuda, but this machine has no CUDA device that torch can use (auto would "
    "take the CPU)"
)


def count_devices() -> int:
    """How many CUDA devices torch can use: none, too, where the driver is too old for it."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def own_device(device: Device) -> torch.device:
    """This process's own GPU where there are some and `device` allows it, else the CPU.

    Raises ValueError where `device` is cuda and there is none.
    """
    n_gpus = count_devices()
    if device == "cuda" and n_gpus == 0:
        raise ValueError(NO_DEVICE)
    if device == "cpu" or n_gpus == 0:
        return torch.device("cpu")
    return torch.device(f"cuda:{local_rank() % n_gpus}")
