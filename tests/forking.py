"""One server for all of a test run's workers, with everything imported, that forks processes.

A fresh process takes 5 to 9 CPU seconds to import torch, transformers and DeepSpeed. Two things
are forked instead: a function (`start_forked`), and `python -m MODULE …` (`run_module`), which
forks in turn what it starts by `python -m`.
"""

import fcntl
import gc
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

TESTS = Path(__file__).parent
SERVE = """
import os, shutil
from multiprocessing.forkserver import main
own = os.getpid()
try:
    main({listener}, {alive}, ["preloaded"], sys_path=None)
finally:
    if os.getpid() == own:
        shutil.rmtree({folder!r}, ignore_errors=True)
"""


class _Server(forkserver.ForkServer):
    """Python's fork server, shared by the workers of a run; ends when all of them have.

    The project's own pools of decoders have Python's single one of each process, which has other
    modules imported.
    """

    def ensure_running(self) -> None:
        if self._forkserver_alive_fd is not None:
            return
        resource_tracker.ensure_running()
        folder = _folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one worker starts it, the others wait
            try:
                alive = os.open(folder / "alive", os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # no such file, or no server reads it
                alive = _start(folder)
        self._forkserver_alive_fd, self._forkserver_address = alive, str(folder / "socket")


def _folder() -> Path:
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    return Path(tempfile.gettempdir()) / f"r1omni-tests-{os.getuid()}-{run}"


def _start(folder: Path) -> int:
    """Start the server; the end of the pipe that keeps it alive."""
    for name in ("alive", "socket"):
        (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / "alive")
    watched = os.open(folder / "alive", os.O_RDONLY | os.O_NONBLOCK)
    alive = os.open(folder / "alive", os.O_WRONLY)
    paths = [str(TESTS.parent), str(TESTS), str(TESTS / "training"), os.environ.get("PYTHONPATH")]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        code = SERVE.format(listener=listener.fileno(), alive=watched, folder=str(folder))
        subprocess.Popen(
            [sys.executable, "-c", code],
            pass_fds=(listener.fileno(), watched),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
    os.close(watched)
    return alive


_server = _Server()
_context = multiprocessing.get_context("forkserver")


def start_forked(target: Any, *args: Any) -> BaseProcess:
    """A function in a process that is forked from the server."""
    process: BaseProcess = _context.Process(target=target, args=args)
    connect = forkserver.connect_to_new_process
    forkserver.connect_to_new_process = _server.connect_to_new_process
    try:
        process.start()
    finally:
        forkserver.connect_to_new_process = connect
    return process


def run_module(
    command: Sequence[str],
    folder: Path,
    said: Path,
    environment: Mapping[str, str],
    before: Callable[[], None] | None = None,
    errors: Path | None = None,
) -> BaseProcess:
    """`python -m MODULE …` in a folder, its output appended to a file; `before` is called first.

    `errors`: another file for its standard error.
    """
    files = (said, errors or said)
    return start_forked(_run_module, list(command), folder, files, dict(environment), before)


def _run_module(
    command: Sequence[str],
    folder: Path,
    files: tuple[Path, Path],
    environment: Mapping[str, str],
    before: Callable[[], None] | None,
) -> NoReturn:
    if before:
        before()
    os.chdir(folder)
    for number, path in enumerate(files, start=1):
        with path.open("a") as file:
            os.dup2(file.fileno(), number)
    _become(command, environment)


class ForkedPopen(subprocess.Popen[Any]):
    """As subprocess.Popen; `python -m MODULE …` is forked from this process."""

    def __init__(self, args: Sequence[str], **options: Any) -> None:
        if args[0] == sys.executable and "-m" in args[1:3]:
            given = options.get("env")
            options["preexec_fn"] = partial(_become, args, os.environ if given is None else given)
        super().__init__(args, **options)


def _become(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Make this forked process what the command would be; end as it ends."""
    os.closerange(3, 4096)  # a pipe held open would tell our parent that we live
    resource_tracker._resource_tracker._fd = None  # type: ignore[attr-defined]  # it is closed
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python does when it starts
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    given = dict(environment)
    os.environ.clear()
    os.environ.update(given)
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    subprocess.Popen = ForkedPopen  # type: ignore[misc]
    subprocess_handler.Popen = ForkedPopen  # type: ignore[misc]
    for path in (*filter(None, given.get("PYTHONPATH", "").split(os.pathsep)), str(Path.cwd())):
        if path not in sys.path:
            sys.path.insert(0, path)
    place = command.index("-m") + 1
    module, sys.argv = command[place], list(command[place:])
    if not hasattr(sys.modules.get(module), "__path__"):  # of a package, its __main__ runs
        sys.modules.pop(module, None)  # it runs as __main__, anew
    gc.freeze()
    gc.enable()
    code: Any = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
        code = code if isinstance(code, int) else int(code is not None)
    except BaseException:
        traceback.print_exc()
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
