"""What the processes of forked.py begin with: imported once, in the server that forks them."""

from importlib import import_module

from r1omni.machine.fork_server import PRELOAD
from r1omni.machine.imports import quick_imports

with quick_imports():
    for name in (*PRELOAD, "r1omni.training.grpo", "forked"):
        import_module(name)
