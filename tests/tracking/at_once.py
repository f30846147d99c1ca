"""Processes of one program, forked after the imports: to import MLflow takes each one 4 CPU s."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FORKING = """
import os, sys
from importlib import import_module
for name in ("mlflow", "mlflow.store.tracking.sqlalchemy_store", "sqlalchemy.dialects.sqlite",
             "mlflow.store.tracking.sqlalchemy_workspace_store", "pyarrow.parquet"):
    import_module(name)
folders = sys.argv[1:]
for place, folder in enumerate(folders):
    if os.fork() == 0:
        os.chdir(folder)
        os.environ["DVC_ROOT"] = os.getcwd()
        sys.argv[1:] = [str(place)]
        break
else:
    codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in folders]
    print(*codes)
    sys.exit()
"""


def run_at_once(program: str, folders: Sequence[Path]) -> tuple[list[int], str]:
    """The exit codes of a process per folder that run the program, and their standard error.

    Each has its folder as working directory and DVC_ROOT, and its number as argument.
    """
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", FORKING + program, *folders], env=os.environ | {"PYTHONPATH": paths},
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    return [int(code) for code in done.stdout.splitlines()[-1].split()], done.stderr
