"""The process that stages are forked from: torch, transformers, DeepSpeed, MLflow are imported.

Importing them costs a process up to 9 CPU seconds, and a training is three processes. A forked
process is as a fresh one: working directory, environment, arguments, umask, standard streams and
process group are its client's (fork_client.py), and our own code is imported anew from the working
directory. The server refuses a client with another working directory, Python or environment.
"""

import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from r1omni.machine.environment import numpy_as_everywhere
from r1omni.machine.fork_client import LARGEST, PASSED_ON
from r1omni.machine.lifeline import die_with_parent

PRELOAD = (
    "torch",
    "transformers",
    "transformers.conversion_mapping",
    "transformers.models.bert.modeling_bert",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.siglip.modeling_siglip",
    "transformers.models.whisper.modeling_whisper",
    "torchaudio.transforms",
    "av",
    "decord",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "deepspeed",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "sqlalchemy.dialects.sqlite",
)
LIBRARIES_THREADS = frozenset({"jemalloc_bg_thd"})  # pyarrow's; it starts again after a fork
# Variables that may differ from the server's: no library reads them when it is imported.
FREE = ("DVC", "GROUP_", "LOCAL_", "MASTER_", "R1OMNI_", "ROLE_", "TORCHELASTIC_")
FREE_NAMES = frozenset(
    (
        *("GLOO_SOCKET_IFNAME", "OLDPWD", "PWD", "RANK", "SHLVL", "TOKENIZERS_PARALLELISM"),
        *(
            "PS1",
            "PS2",
        ),  # an activated environment exports its prompt; the shell of a stage drops it
        *("TORCH_NCCL_ASYNC_ERROR_HANDLING", "WORLD_SIZE", "_"),
    )
)


class _Stage(NamedTuple):
    pid: int
    ended: int  # a pidfd, readable when the process has ended
    client: socket.socket


class _Server:
    def __init__(self, listener: socket.socket, threads: int) -> None:
        self.listener = listener
        self.threads = threads
        self.at_start = dict(os.environ)
        self.cwd = str(Path.cwd())
        self.unfit: str | None = None  # why no process can be forked
        self.preloaded = False
        self.stages: list[_Stage] = []

    def serve(self) -> dict[str, Any]:
        """Answer clients for ever. Returns, in each forked process, what its client asked for."""
        while True:
            readable, _, _ = select.select(
                [self.listener, *(file for s in self.stages for file in (s.ended, s.client))],
                [],
                [],
            )
            for stage in list(self.stages):
                if stage.ended in readable:
                    self._report_end(stage)
                elif stage.client in readable:
                    self._pass_on(stage)
            if self.listener in readable:
                client, _ = self.listener.accept()
                request = self._answer(client)
                if request is not None:
                    return request

    def _report_end(self, stage: _Stage) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(stage.pid, 0)[1])
        with suppress(OSError):
            stage.client.send(str(code).encode())
        os.close(stage.ended)
        stage.client.close()
        self.stages.remove(stage)

    def _pass_on(self, stage: _Stage) -> None:
        """The client's signal to its stage; SIGKILL if the client has died."""
        try:
            message = stage.client.recv(LARGEST)
        except OSError:
            message = b""
        number = json.loads(message)["signal"] if message else signal.SIGKILL
        os.kill(stage.pid, number)  # the process is not reaped yet, so the number is still its own

    def _answer(self, client: socket.socket) -> dict[str, Any] | None:
        """Fork the client's stage or refuse it. The forked process returns the request."""
        message, files, _, _ = socket.recv_fds(client, LARGEST, 3)
        if not message or len(files) != 3:
            client.close()
            return None
        request: dict[str, Any] = json.loads(message)
        refused = self._refusal(request)
        if refused:
            with suppress(OSError):
                client.send(json.dumps({"refused": refused}).encode())
            client.close()
        else:
            pid = os.fork()
            if pid == 0:
                self.listener.close()
                for stage in self.stages:
                    stage.client.close()
                    os.close(stage.ended)
                client.close()
                ours = {k: v for k, v in os.environ.items() if self.at_start.get(k) != v}
                return {**request, "files": files, "set_by_imports": ours}
            self.stages.append(_Stage(pid, os.pidfd_open(pid), client))
            with suppress(OSError):
                client.send(json.dumps({"pid": pid}).encode())
        for file in files:
            os.close(file)
        return None

    def _refusal(self, request: Mapping[str, Any]) -> str | None:
        """Why a process forked here would not be as a fresh one; None if it is."""
        if request["cwd"] != self.cwd:
            return f"it serves {self.cwd}"
        if request["python"] != [sys.prefix, sys.version]:
            return f"it runs Python {sys.version} of {sys.prefix}"
        if not self.preloaded:
            self.preloaded = True
            self.unfit = _preload(self.threads)
        asked = request["environment"]
        changed = [
            name
            for name in sorted(self.at_start.keys() | asked.keys())
            if not name.startswith(FREE)
            and name not in FREE_NAMES
            and asked.get(name) not in (self.at_start.get(name), os.environ.get(name))
        ]
        if changed:
            return f"another environment: {', '.join(changed)}"
        return self.unfit


def _preload(threads: int) -> str | None:
    """Import the libraries. Returns why no process can be forked now, or None."""
    numpy_as_everywhere()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    gc.disable()  # see r1omni/machine/imports.py
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        for name in PRELOAD:
            importlib.import_module(name)
        sys.modules["transformers.conversion_mapping"].get_checkpoint_conversion_mapping("")
    except (OSError, ImportError) as error:
        return str(error)
    gc.freeze()
    for name in [m for m in sys.modules if m.partition(".")[0] == "r1omni"]:
        del sys.modules[name]  # each stage imports the code as it then is
    tasks = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()
             if task.name != str(os.getpid())}  # fmt: skip
    if tasks - LIBRARIES_THREADS or threading.active_count() > 1:
        return f"the libraries started threads: {', '.join(sorted(tasks)) or threading.enumerate()}"
    return None


def _become(request: Mapping[str, Any]) -> None:
    """Make this forked process what `python -m r1omni …` would be when it starts."""
    die_with_parent()
    for signum in (*PASSED_ON, signal.SIGINT):
        default = signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
        signal.signal(signum, signal.SIG_IGN if signum in request["ignored"] else default)
    if request["group"] is None:
        os.setsid()  # a rank: torch's launcher gives each a session
    else:
        os.setpgid(0, request["group"])
    for number, file in enumerate(request["files"]):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update({**request["environment"], **request["set_by_imports"]})
    sys.argv[1:] = request["argv"]
    sys.modules["numpy"].random.seed()  # Python's random does so by itself
    sys.modules["torch"].default_generator.seed()
    importlib.invalidate_caches()
    gc.enable()


def main() -> None:
    """Serve on the socket that is given by its file descriptor; the forked processes run stages."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    folder = Path(listener.getsockname()).parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the stages end
    own = os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() == own:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    request = _Server(listener, int(sys.argv[2])).serve()
    _become(request)
    runpy.run_module("r1omni", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
