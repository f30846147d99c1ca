"""DVC's queue of experiments: rows are queued once, run by its workers, and read by their commit.

The workers are DVC's own processes. They share DVC's cache, so what rows have in common runs once.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]

from r1omni.experiments.studies import Trial
from r1omni.pipeline import DVC

CODE: Final = ("r1omni", "dvc.yaml", "params.yaml", ":!r1omni/experiments", ":!r1omni/commands")
LOG_LINES: Final = 12  # of a failed row's log
POLL_SECONDS: Final = 2.0
STATUS_SECONDS: Final = 20.0  # between two `dvc queue status`, which takes a second of a core
STATUS_TRIES: Final = 4
START_SECONDS: Final = 60.0  # that a new worker may take to appear

Ended = Callable[[str, bool], None]
States = dict[str, str]  # experiment's name -> Queued, Running, Failed or Success


class DvcFailed(RuntimeError):
    """A `dvc` command failed. The message has the end of its output."""


@dataclass(frozen=True)
class ExperimentQueue:
    """The experiments of the project at `root`, on top of a commit of it."""

    root: Path
    commit: str

    def same_code(self, commit: str) -> bool:
        """Whether that commit's stages and params are those of this one."""
        command = ["git", "diff", "--quiet", commit, self.commit, "--", *CODE]
        done = subprocess.run(command, cwd=self.root, check=False, capture_output=True)
        return done.returncode == 0

    def finished(self) -> set[str]:
        """The names of the commit's experiments that have ended well."""
        return {ref.rpartition("/")[2] for ref in self._refs()}

    def revision(self, name: str) -> str:
        """The Git revision of a finished experiment."""
        return self._prefix() + name

    def states(self) -> States:
        """What DVC's queue says of each experiment in it, by name.

        It is asked again after a failure: DVC reads files that its workers are writing.
        """
        for left in reversed(range(STATUS_TRIES)):
            try:
                lines = self.dvc("queue", "status").splitlines()
                break
            except DvcFailed:
                if not left:
                    raise
                time.sleep(POLL_SECONDS)
        words = [line.split() for line in lines]
        known = ("Queued", "Running", "Failed", "Success")
        return {w[1]: w[-1] for w in words if len(w) > 3 and w[-1] in known}

    def enqueue(self, trial: Trial) -> None:
        """Queue a row. Raises DvcFailed, for a key that params.yaml does not have, too."""
        settings = [part for setting in trial.settings for part in ("--set-param", setting)]
        self.dvc("exp", "run", "--queue", "--name", trial.name, *settings, *trial.targets)

    def run(self, trials: Sequence[Trial], jobs: int, ended: Ended) -> dict[str, str]:
        """Run the rows. `ended(name, well)` is called for each. Returns failed name -> log's end.

        Rows that are running already are not queued again. Queued ones are if there is no worker:
        an interrupted study left them, perhaps at an earlier commit. Whatever else is in the
        project's queue runs, too. After Ctrl-C or SIGTERM the running rows are killed and the
        queued ones stay queued; KeyboardInterrupt is raised.
        """
        failed = self._enqueue_missing(trials)
        for name in failed:
            ended(name, False)
        waiting = {trial.name for trial in trials} - set(failed)
        try:
            while waiting:
                self._ensure_workers(jobs)
                for name in self._wait(waiting, ended):
                    failed[name] = self.log_end(name)
                    ended(name, False)
                if waiting and not self._workers():
                    self._fail_orphans(waiting)
        except KeyboardInterrupt:
            self._stop(waiting)
            raise
        return failed

    def log_end(self, name: str) -> str:
        """The last lines of what an experiment printed."""
        try:
            lines = self.dvc("queue", "logs", name).splitlines()
        except DvcFailed as error:
            lines = str(error).splitlines()
        return "\n".join([line for line in lines if line.strip()][-LOG_LINES:])

    def dvc(self, *arguments: str) -> str:
        """What a `dvc` command, run in the project, prints. Raises DvcFailed."""
        done = subprocess.run(
            [*DVC, *arguments], cwd=self.root, env=_environment(), check=False, text=True,
            capture_output=True,
        )  # fmt: skip
        if done.returncode != 0:
            output = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            raise DvcFailed("\n".join(output[-LOG_LINES:]))
        return done.stdout

    def _enqueue_missing(self, trials: Sequence[Trial]) -> dict[str, str]:
        """Queue the rows that do not run. Returns those that DVC refuses.

        A row that an interrupted study left in the queue was made from that study's commit.
        """
        names = {trial.name for trial in trials}
        busy = ("Queued", "Running") if self._workers() else ("Running",)
        states = self._fail_orphans(names)
        old = sorted(name for name in names if states.get(name) not in (None, *busy))
        if old:
            self.dvc("queue", "remove", *old)
        refused = {}
        for trial in trials:
            if states.get(trial.name) in busy:
                continue
            try:
                self.enqueue(trial)
            except DvcFailed as error:
                refused[trial.name] = str(error)
        return refused

    def _fail_orphans(self, names: set[str]) -> States:
        """Mark rows as failed that are running by DVC's account, though there is no worker."""
        workers = self._workers()  # looked for first: one may end after the states were read
        states = self.states()
        if workers:
            return states
        for name in sorted(name for name in names if states.get(name) == "Running"):
            for _ in ("end what outlived its worker", "note it as failed"):
                with suppress(DvcFailed):  # the second is refused where the first did both
                    self.dvc("queue", "kill", "--force", name)
            states[name] = "Failed"
        return states

    def _ensure_workers(self, jobs: int) -> None:
        """Start DVC's workers if there are none: one that found the queue empty has ended."""
        if self._workers():
            return
        # Its workers inherit its output: a pipe would be read until the last of them ends.
        subprocess.run(
            [*DVC, "queue", "start", "--jobs", str(jobs)], cwd=self.root, env=_environment(),
            check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not self._workers() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS / 4)

    def _wait(self, waiting: set[str], ended: Ended) -> list[str]:
        """Wait for STATUS_SECONDS at most; takes out of `waiting` what ended. Returns failures."""
        deadline = time.monotonic() + STATUS_SECONDS
        while waiting and time.monotonic() < deadline:
            for name in sorted(waiting & self.finished()):
                waiting.discard(name)
                ended(name, True)
            time.sleep(POLL_SECONDS)
        failed = sorted(self._lost(waiting))
        waiting.difference_update(failed)
        return failed

    def _lost(self, waiting: set[str]) -> set[str]:
        """Rows that will not end well. Looks twice: on its way to a worker, a row is nowhere."""
        lost = set(waiting)
        for seconds in (0.0, POLL_SECONDS):
            if lost:
                time.sleep(seconds)
                states = self.states()
                lost = {n for n in lost if states.get(n) not in ("Queued", "Running")}
        return lost - self.finished()

    def _workers(self) -> list[psutil.Process]:
        """DVC's workers of this project."""
        root, found = self.root.resolve(), []
        for process in psutil.process_iter():
            try:
                if "queue-worker" in process.cmdline() and root == Path(process.cwd()):
                    found.append(process)
            except psutil.Error:  # it has just ended, or is another user's
                continue
        return found

    def _stop(self, waiting: set[str]) -> None:
        """Kill the workers with what they run; queued rows stay queued.

        `dvc queue stop` does not do: a worker whose row was killed takes the next one first.
        """
        for worker in self._workers():
            with suppress(psutil.NoSuchProcess):
                for process in (worker, *worker.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
        running = [name for name, state in self.states().items() if state == "Running"]
        if mine := sorted(waiting.intersection(running)):
            self.dvc("queue", "kill", "--force", *mine)  # marks them as failed

    def _refs(self) -> list[str]:
        return git(self.root, "for-each-ref", "--format=%(refname)", self._prefix()).split()

    def _prefix(self) -> str:
        """DVC keeps an experiment as refs/exps/AB/CDEF.../NAME, by the commit it is based on."""
        return f"refs/exps/{self.commit[:2]}/{self.commit[2:]}/"


def open_queue(root: Path) -> ExperimentQueue:
    """The queue on top of the current commit. Raises ValueError if code or params differ from it.

    What is not committed would be part of the rows without a trace.
    """
    if changed := git(root, "status", "--porcelain", "--", *CODE).strip():
        raise ValueError(
            f"{root / changed.splitlines()[0].split()[-1]}: differs from the commit; a study's "
            "rows are of a commit, so commit it first"
        )
    return ExperimentQueue(root, git(root, "rev-parse", "HEAD").strip())


def git(root: Path, *arguments: str) -> str:
    """What a `git` command prints. Raises ValueError with git's own words."""
    done = subprocess.run(
        ["git", *arguments], cwd=root, check=False, text=True, capture_output=True
    )
    if done.returncode != 0:
        raise ValueError(f"{root}: git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def _environment() -> dict[str, str]:
    """With this interpreter's `dvc` and `python` first: DVC's workers call them by name."""
    folder = Path(sys.executable).parent
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
        "DO_NOT_TRACK": "true",
    }
