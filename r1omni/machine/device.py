"""The device of a model that is not being trained: the towers, or a model that answers."""

from typing import Literal

import torch

from r1omni.machine.environment import local_rank

Device = Literal["auto", "cpu", "cuda"]  # params.yaml: machine.device
NO_DEVICE = (
    "machine.device is cuda, but this machine has no CUDA device that torch can use (set auto or "
    "cpu to run on the CPU)"
)


def count_devices() -> int:
    """The number of CUDA devices that torch can use; 0 also if the driver is too old for torch."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_attention() -> None:
    """Keep torch's attention away from cuDNN, which it prefers on a Hopper or Blackwell GPU.

    cuDNN plans anew for every length (seconds a step, where prompts differ), and with a mask or a
    single query it has given gradients that are no numbers (pytorch#196678, cudnn-frontend#1072).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def own_device(device: Device) -> torch.device:
    """This process's GPU (by its local rank) if there is one and `device` allows it, else the CPU.

    Raises ValueError if `device` is cuda and there is no GPU.
    """
    n_gpus = count_devices()
    if device == "cuda" and n_gpus == 0:
        raise ValueError(NO_DEVICE)
    if device == "cpu" or n_gpus == 0:
        return torch.device("cpu")
    choose_attention()
    return torch.device(f"cuda:{local_rank() % n_gpus}")
