"""Prefect on this machine in one command: server, work pool, deployment and worker.

`python -m flows.serve` serves until Ctrl-C; `python -m flows.serve --run` runs the deployment once
and ends with its exit code (0 completed, 1 failed). Prefect's own files go to .prefect/. Server,
pages and clients ask for the password in .prefect/auth, so that other users cannot start runs.
"""

import argparse
import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from flows.access import AUTH_FILE, PortTaken, access_environment, is_serving, write_profile
from flows.automations import HEARTBEAT_SECONDS
from flows.processes import prepare_child, stop_tree, venv_environment
from r1omni.loopback import HOST

POOL_VARIABLE = "R1OMNI_WORK_POOL"  # prefect.yaml reads the pool's name from it
POOL_TEMPLATE = Path(__file__).with_name("work_pool.json")
DEPLOYMENT = "grpo-pipeline/default"
STARTUP_SECONDS = 180.0
RESTARTS = 5  # of one child within RESTART_WINDOW seconds; then `make prefect` gives up
RESTART_WINDOW = 300.0

console = Console(stderr=True)


class ServeFailed(RuntimeError):
    """Prefect's server, worker or one of its commands failed; the message ends with its output."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: of the run with --run, else 0 after Ctrl-C, 1 if Prefect does not start."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__)
    parser.add_argument("--port", type=int, default=4200, help="of the server on 127.0.0.1")
    parser.add_argument("--run", action="store_true", help="run the deployment once, then stop")
    parser.add_argument(
        "--param", action="append", default=[], help="such as targets='[\"score\"]'"
    )
    options = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        environment = prefect_environment(Path.cwd(), options.port)
        with ExitStack() as stack:
            children = []
            if not is_serving(environment, options.port):
                console.print(f"Starting Prefect's server on {HOST}:{options.port} …")
                children.append(stack.enter_context(server(environment, options.port)))
            write_profile(environment)
            deploy(environment)
            pool = environment[POOL_VARIABLE]
            command = prefect("worker", "start", "--pool", pool, "--name", pool)
            # Prefect's worker writes to runner_storage in TMPDIR: in /tmp it is the first user's.
            private = stack.enter_context(TemporaryDirectory(prefix="r1omni-"))
            own = environment | {"TMPDIR": private}
            children.append(stack.enter_context(background("worker", command, own)))
            if options.run:
                return run_deployment(environment, options.param)
            print_instructions(environment, options.port)
            while True:
                time.sleep(1.0)
                for child in children:
                    child.restart_if_ended()
    except (ServeFailed, PortTaken, ValueError) as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130 if options.run else 0


def prefect_environment(root: Path, port: int) -> dict[str, str]:
    """The environment in which every prefect command uses the project's own server.

    Raises ValueError if other users can read the server's password.
    """
    quiet = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "true"}
    own = {
        POOL_VARIABLE: pool_name(root),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    }
    return venv_environment() | access_environment(root / ".prefect", port) | quiet | own


def pool_name(root: Path) -> str:
    """The work pool of the project in this folder: two clones never share one."""
    return f"r1omni-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]}"


def prefect(*arguments: str) -> list[str]:
    """The prefect command of this installation; it prompts for nothing and installs nothing."""
    never = ["--install-policy", "never"] if arguments[:2] == ("worker", "start") else []
    return [sys.executable, "-m", "prefect", "--no-prompt", *arguments, *never]


@contextmanager
def server(environment: dict[str, str], port: int) -> Iterator["Background"]:
    """Run a Prefect server during the block.

    Raises ServeFailed if it does not start, PortTaken if another program has the port.
    """
    command = prefect("server", "start", "--host", HOST, "--port", str(port))
    with background("server", command, environment) as process:
        deadline = time.monotonic() + STARTUP_SECONDS
        while not is_serving(environment, port):
            if not process.is_running() or time.monotonic() > deadline:
                raise ServeFailed(f"Prefect's server did not start; {process.last_lines()}")
            time.sleep(0.3)
        yield process


class Background:
    """A command in the background, whose output goes to .prefect/NAME.log."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        self._name, self._command, self._environment = name, command, environment
        self._log = Path(environment["PREFECT_HOME"]) / f"{name}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")
        self._restarts: list[float] = []
        self._process = self._start()

    def is_running(self) -> bool:
        """Whether the command has not ended."""
        return self._process.poll() is None

    def restart_if_ended(self) -> None:
        """Start the command again if it has ended, which is printed.

        Raises ServeFailed if it keeps ending.
        """
        code = self._process.poll()
        if code is None:
            return
        now = time.monotonic()
        self._restarts = [t for t in self._restarts if now - t < RESTART_WINDOW] + [now]
        if len(self._restarts) > RESTARTS:
            raise ServeFailed(f"Prefect's {self._name} keeps ending; {self.last_lines()}")
        console.print(f"Prefect's {self._name} ended with code {code}: starting it again.")
        self._process = self._start()

    def last_lines(self) -> str:
        """The log's path and last lines."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "\n".join([f"{self._log}:", *lines])

    def stop(self) -> None:
        """Stop the command and its descendants."""
        stop_tree(self._process.pid, seconds=10.0)
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as output:
            # Its own session: Ctrl-C reaches only this process, which stops worker, then server.
            return subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=prepare_child,
            )


@contextmanager
def background(
    name: str, command: Sequence[str], environment: dict[str, str]
) -> Iterator[Background]:
    """Run the command during the block, then stop it and its descendants."""
    child = Background(name, command, environment)
    try:
        yield child
    finally:
        child.stop()


def deploy(environment: dict[str, str]) -> None:
    """Create the work pool, all deployments of prefect.yaml and the automation for dead runs.

    Raises ServeFailed.
    """
    pool = ("work-pool", "create", environment[POOL_VARIABLE], "--type", "process", "--overwrite")
    for command in (
        prefect(*pool, "--base-job-template", str(POOL_TEMPLATE)),
        prefect("work-pool", "set-concurrency-limit", environment[POOL_VARIABLE], "1"),  # queues
        prefect("deploy", "--all"),
        [sys.executable, "-m", "flows.automations"],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise ServeFailed(
                f"{' '.join(command[2:])}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )


def run_deployment(environment: dict[str, str], parameters: Sequence[str]) -> int:
    """Run the deployment and watch it. Returns 0 if it completed, 1 if it failed."""
    options = [part for parameter in parameters for part in ("--param", parameter)]
    command = prefect("deployment", "run", DEPLOYMENT, "--watch", *options)
    return subprocess.run(command, env=environment).returncode


def print_instructions(environment: dict[str, str], port: int) -> None:
    """Print the address, the password file and the next commands."""
    lines = (
        f"Prefect:  http://{HOST}:{port}  (Ctrl-C stops it; logs in .prefect/)",
        f"Its pages ask for a password. To see it:  cat .prefect/{AUTH_FILE}",
        "To run the pipeline, in another terminal of this folder:",
        f"  .venv/bin/prefect deployment run {DEPLOYMENT.partition('/')[0]} --watch",
    )
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
