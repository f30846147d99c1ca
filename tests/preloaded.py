"""What the processes of forking.py begin with: imported once, in the server that forks them."""

import os
import tempfile
from importlib import import_module
from pathlib import Path

from r1omni.machine.fork_server import PRELOAD
from r1omni.machine.imports import quick_imports

OURS = ("r1omni.training.grpo", "r1omni.training.sft", "r1omni.cli", "forked")
TESTS = ("pytest", "psutil", "yaml", "two_machines", "kills")
LAUNCHERS = ("torch.distributed.run", "deepspeed.launcher.runner", "deepspeed.launcher.launch")


os.environ.setdefault("DS_ACCELERATOR", "cpu")  # what these train on, also beside a GPU


def compile_patterns() -> None:
    """Have transformers compile its thousand patterns, and those of the toy's weights."""
    import torch
    import toy
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from r1omni.base_model.humanomni import build_untrained
    from r1omni.training.checkpoints import load_parent

    get_checkpoint_conversion_mapping("")
    params = toy.toy_params()
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        backbone = build_untrained(["a"], ["a"], model=params.model, media=params.media)
        backbone.save(Path(folder), None)
        load_parent(Path(folder))


with quick_imports():
    for name in (*PRELOAD, *OURS, *TESTS, *LAUNCHERS):
        import_module(name)
    compile_patterns()
