"""Where a model runs that is not in training: towers, answers."""

import os
from typing import Literal

import torch

Device = Literal["auto", "cpu", "cuda"]  # params.yaml: engine.device


def own_device(device: Device) -> torch.device:
    """This process's own GPU where there are some and `device` allows it, else the CPU.

    Raises ValueError where `device` is cuda and there is none.
    """
    n_gpus = torch.cuda.device_count()
    if device == "cuda" and n_gpus == 0:
        raise ValueError("engine.device is cuda, but this machine has no CUDA device")
    if device == "cpu" or n_gpus == 0:
        return torch.device("cpu")
    return torch.device(f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % n_gpus}")
