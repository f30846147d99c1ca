"""The commands that people type. Imports late."""

from r1omni.commands import pipeline, predict, doctor, evaluate, models, cards  # isort: skip  (the order of --help)
from r1omni.commands.command import commands

__all__ = ["cards", "commands", "doctor", "evaluate", "models", "pipeline", "predict"]
