"""Several `dvc` commands in one process: DVC's imports take a second of a core."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

END = "\x1e\n"  # behind each command's output
PROGRAM = f"""
import json, sys
from dvc.cli import main
for command in json.loads(sys.argv[1]):
    code = main(command)
    sys.stderr.flush()
    print(end={END!r}, flush=True)
    if code:
        sys.exit(code)
"""


def dvc_outputs(
    folder: Path, *commands: Sequence[str], environment: Mapping[str, str] | None = None
) -> list[str]:
    """What each command prints to both streams, run one after the other. All must succeed."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    outputs = done.stdout.split(END)
    assert len(outputs) == len(commands) + 1, done.stdout[-6000:]
    return outputs[:-1]
