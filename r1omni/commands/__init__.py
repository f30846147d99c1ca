"""The commands that people type. Imports late."""

from r1omni.commands import pipeline, predict, audit, doctor, evaluate, models, cards  # isort: skip  (the order of --help)
from r1omni.commands.command import commands

__all__ = ["audit", "cards", "commands", "doctor", "evaluate", "models", "pipeline", "predict"]
