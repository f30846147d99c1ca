"""One command per pipeline stage, called by dvc.yaml with its paths. Imports late."""

from r1omni.stages import data, training, results  # isort: skip  (the order of --help)
from r1omni.stages.command import PARAMS, ParamsFile, StageCommand, stages

for _command in stages.registered_commands:
    _command.cls = StageCommand

__all__ = ["PARAMS", "ParamsFile", "StageCommand", "data", "results", "stages", "training"]
