"""Stages forked from a server: as fresh processes, in all but the time that they take to start.

The project is a small one with a command line of its own; fork_server.py is the real one.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from r1omni.machine.fork_client import SOCKET

CLI = """
import gc, json, os, random, signal, sys, time
from pathlib import Path


def main():
    from r1omni.machine.environment import numpy_as_everywhere

    numpy_as_everywhere()  # as the real one
    task = sys.argv[2]
    if task == "describe":
        json.dump(describe(), sys.stdout)
    elif task == "exit":
        sys.exit(int(sys.argv[3]))
    elif task == "raise":
        raise KeyError("lost")
    elif task == "kill":
        os.kill(os.getpid(), int(sys.argv[3]))
    elif task == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("state saved"))
        Path("waiting").write_text(str(os.getpid()))
        time.sleep(100)


def describe():
    import __main__, decord, deepspeed, mlflow, numpy, torch

    return {
        "arguments": sys.argv,
        "cwd": os.getcwd(),
        "paths": sys.path,
        "environment": {k: v for k, v in os.environ.items() if k not in ("_", "OMP_NUM_THREADS")},
        "umask": os.umask(0o022),
        "main": [__main__.__file__, __main__.__spec__.name],
        "group": os.getpgid(0) == os.getpgid(os.getppid()) or "other",
        "session": os.getsid(0),
        "signals": [str(signal.getsignal(n)) for n in range(1, 32)],
        "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "streams": [[s.fileno(), s.line_buffering, s.encoding, s.isatty()]
                    for s in (sys.stdin, sys.stdout, sys.stderr)],
        "files": sorted(os.readlink(f"/proc/self/fd/{n}") for n in "012"),
        "torch": [torch.get_num_threads(), torch.cuda.is_initialized()],
        "numpy": numpy._core._multiarray_umath.__cpu_features__,
        "seeds": [torch.initial_seed(), random.random(), numpy.random.random()],
        "accelerator": deepspeed.accelerator.get_accelerator().device_name(),
        "garbage": [gc.isenabled(), gc.get_threshold()],
        "hash seed": sys.flags.hash_randomization,
    }
"""
# The server sets these before it imports the libraries, or they do: all stages have the same.
SET_EARLIER = ("DS_ACCELERATOR", "HF_HUB_DISABLE_TELEMETRY", "TORCHINDUCTOR_CACHE_DIR")
# A pipeline: it has a server, and runs a stage when it is told to.
SERVE = """
import json, os, sys, subprocess
from pathlib import Path
from r1omni.machine.fork_client import fork_server
with fork_server(os.environ, 1) as environment:
    Path("served.part").write_text(json.dumps(environment))
    Path("served.part").rename("served.json")
    if sys.stdin.readline():
        subprocess.run([sys.executable, "-m", "r1omni", "base", "wait"], env=environment)
"""


def make_project(repo: Path, folder: Path) -> Path:
    """A project whose r1omni has the real machine/ and a command line that describes itself."""
    shutil.copytree(repo / "r1omni/machine", folder / "r1omni/machine")
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(repo / "r1omni" / name, folder / "r1omni" / name)
    (folder / "r1omni/cli.py").write_text(CLI)
    return folder


@pytest.fixture(scope="module")
def project(repo, tmp_path_factory):
    return make_project(repo, tmp_path_factory.mktemp("forked"))


@pytest.fixture(scope="module")
def pipeline(project):
    """A pipeline, whose server imports the libraries when it is first asked."""
    given = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "true",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name in ("PYTHONPATH", "PYTHONUNBUFFERED", "NPY_DISABLE_CPU_FEATURES", SOCKET):
        given.pop(name, None)
    command = [sys.executable, "-c", SERVE]
    process = subprocess.Popen(command, cwd=project, env=given, stdin=subprocess.PIPE)
    yield process
    process.stdin.close()
    process.wait(timeout=60)


@pytest.fixture(scope="module")
def environment(project, pipeline):
    """The environment of the pipeline's stages."""
    note, deadline = project / "served.json", time.monotonic() + 60
    while not note.exists():
        assert pipeline.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return json.loads(note.read_text())


def run(folder, environment, *arguments, **options):
    """The finished command `python -m r1omni base …`."""
    command = [sys.executable, "-m", "r1omni", "base", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, **options
    )


def fresh(environment):
    return {name: value for name, value in environment.items() if name != SOCKET}


def test_a_forked_stage_is_as_a_fresh_one(project, environment):
    told = []
    for given in (fresh(environment), environment, environment):
        done = run(project, given, "describe", "--a", "b c", umask=0o027, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        assert "fork server" not in done.stderr
        told.append(json.loads(done.stdout.splitlines()[-1]))
    seeds = [one.pop("seeds") for one in told]
    assert all(len(set(kind)) == 3 for kind in zip(*seeds, strict=True))
    assert told[1]["environment"].pop(SOCKET) == environment[SOCKET]
    for name in told[0]:
        same = [told[0][name], told[1][name]]
        if name == "files":
            same = [[f for f in files if not f.startswith("pipe:")] for files in same]
        if name == "environment":
            same = [{k: v for k, v in given.items() if k not in SET_EARLIER} for given in same]
        if name == "group":
            continue  # see test_a_rank_has_its_own_session_and_a_stage_its_clients_group
        assert same[0] == same[1], name
    assert told[1]["umask"] == 0o027


@pytest.mark.parametrize(
    ("task", "code"), [("exit 0", 0), ("exit 3", 3), ("raise", 1), ("kill 9", -9), ("kill 15", -15)]
)
def test_the_command_ends_as_its_stage_did(project, environment, task, code):
    done = run(project, environment, *task.split())
    assert done.returncode == code
    assert ("KeyError: 'lost'" in done.stderr) == (task == "raise")


def test_the_stage_runs_the_code_as_it_is_now(project, environment):
    cli = project / "r1omni/cli.py"
    before = cli.read_text()
    cli.write_text("def main():\n    print('edited')\n")
    try:
        assert run(project, environment, "describe").stdout == "edited\n"
    finally:
        cli.write_text(before)


def test_another_folder_runs_its_own_code_afresh(repo, environment, tmp_path):
    other = make_project(repo, tmp_path / "copy")
    (other / "r1omni/cli.py").write_text(
        "def main():\n    import sys\n    print(__file__, 'torch' in sys.modules)\n"
    )
    done = run(other, environment)
    assert done.stdout.split() == [str(other / "r1omni/cli.py"), "False"]
    assert done.stderr.count("\n") == 1
    assert "base: starts without the fork server: it serves" in done.stderr


def test_a_terminal_with_an_activated_environment_is_served(project, environment):
    """It exports its prompt, and the shell that runs a stage drops that."""
    command = ["bash", "-c", f"{sys.executable} -m r1omni base describe"]
    given = {**environment, "PS1": "(.venv) $ ", "PS2": "> "}
    for asked in (command, command[2].split()):
        done = subprocess.run(asked, cwd=project, env=given, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "fork server" not in done.stderr


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"HF_HOME": "/nowhere"}, "another environment: HF_HOME"),
        ({"OMP_NUM_THREADS": "2"}, "another environment: OMP_NUM_THREADS"),
        ({SOCKET: "/nowhere/socket"}, "No such file or directory: '/nowhere'"),
        ({SOCKET: "/tmp/socket"}, "/tmp: not this user's alone"),
    ],
)
def test_a_stage_that_the_server_cannot_run_starts_as_usual(project, environment, changed, reason):
    done = run(project, {**environment, **changed}, "exit", "4")
    assert done.returncode == 4
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


@contextmanager
def waiting(project, process):
    """The id of the stage that `process` is the client of, once it waits; killed at the end."""
    note = project / "waiting"
    deadline = time.monotonic() + 120
    while not (note.is_file() and note.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stage = int(note.read_text())
    note.unlink()
    try:
        yield stage
    finally:
        for pid in (process.pid, stage):
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def is_gone(pid, seconds=10.0):
    """Whether the process ends in time; a zombie has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def start(project, environment, **options):
    command = [sys.executable, "-m", "r1omni", "base", "wait"]
    return subprocess.Popen(
        command, cwd=project, env=environment, stderr=subprocess.PIPE, text=True, **options
    )


def test_sigterm_reaches_the_stage(project, environment):
    client = start(project, environment)
    with waiting(project, client) as stage:
        assert stage != client.pid
        client.terminate()
        assert client.communicate(timeout=30)[1] == "state saved\n"
        assert client.returncode == 1
        assert is_gone(stage)


def test_a_killed_command_takes_its_stage_along(project, environment):
    client = start(project, environment)
    with waiting(project, client) as stage:
        client.kill()
        assert is_gone(stage)
    assert run(project, environment, "exit", "5").returncode == 5  # the server goes on


def test_a_rank_has_its_own_session_and_a_stage_its_clients_group(project, environment):
    for own in (True, False):
        client = start(project, environment, start_new_session=own)
        with waiting(project, client) as stage:
            assert (os.getsid(stage) == stage) == own
            if not own:
                assert os.getpgid(stage) == os.getpgid(client.pid)


def test_nothing_is_left_of_a_killed_pipeline(project, environment, pipeline):
    """The last test: it kills the pipeline of all."""
    pipeline.stdin.write(b"\n")
    pipeline.stdin.flush()
    with waiting(project, pipeline) as stage:
        below = psutil.Process(pipeline.pid).children(recursive=True)
        assert stage in [process.pid for process in below]
        pipeline.kill()
        assert all(is_gone(process.pid) for process in below)
    folder = Path(environment[SOCKET]).parent
    assert not folder.exists()
