"""The commands that people type. Imports late."""

from r1omni.commands import pipeline, predict, doctor, evaluate, models  # isort: skip  (the order of --help)
from r1omni.commands.command import commands

__all__ = ["commands", "doctor", "evaluate", "models", "pipeline", "predict"]
