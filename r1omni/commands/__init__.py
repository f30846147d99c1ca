"""The commands that people type. Imports late."""

from r1omni.commands import pipeline, experiment, predict, audit, doctor, evaluate, models, cards  # isort: skip  (the order of --help)
from r1omni.commands.command import commands

__all__ = [
    "audit",
    "cards",
    "commands",
    "doctor",
    "evaluate",
    "experiment",
    "models",
    "pipeline",
    "predict",
]
