"""One command, N processes: they know their ranks, die together and end with one exit code."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import kills
import psutil
import pytest
import toy
import yaml
from forked import Ranks, train
from forking import run_module

from r1omni.cli import main
from r1omni.machine.launch import is_peer_loss, launch_ranks

STEPS = 10  # of the stage's command: enough that it is killed between two of them


def launch(size: int, restarts: int, code: str, arguments: tuple[str, ...]) -> None:
    """The launcher's own process, which is no rank."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        del os.environ[name]
    machine = toy.machine_params(processes=size, restarts=restarts)
    sys.exit(launch_ranks(machine, [sys.executable, "-c", code, *arguments]))


def launched(folder: Path, size: int, code: str, *arguments: str, restarts: int = 0) -> Ranks:
    """A launcher with torch already imported; it writes to said-0."""
    return Ranks(folder, 1, launch, size, restarts, code, arguments)


def until(condition) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_rank_knows_its_place_and_where_to_meet(tmp_path):
    code = (
        "import os, sys, pathlib; "
        "names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'); "
        "text = ' '.join(os.environ[n] for n in names); "
        "pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(text)"
    )
    assert launched(tmp_path / "launcher", 3, code, str(tmp_path)).wait() == [0]
    found = {path.name: path.read_text() for path in tmp_path.iterdir() if path.is_file()}
    (meeting,) = {text.split(maxsplit=3)[-1] for text in found.values()}
    assert meeting.startswith("127.0.0.1 ")
    assert {name: text.removesuffix(f" {meeting}") for name, text in found.items()} == {
        "0": "0 0 3",
        "1": "1 1 3",
        "2": "2 2 3",
    }


def test_one_failed_rank_ends_all_and_is_quoted(tmp_path):
    code = (
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    print('no such clip'); sys.exit(7)\n"
        "time.sleep(900)"
    )
    began = time.monotonic()
    assert launched(tmp_path, 2, code).wait() == [7]
    said = (tmp_path / "said-0").read_text()
    assert "rank 1 ended with code 7" in said
    assert "no such clip" in said
    assert time.monotonic() - began < 300


def test_a_killed_rank_is_named_and_not_the_one_that_lost_it(tmp_path):
    code = (
        "import os, signal, sys\n"
        "if os.environ['RANK'] == '0':\n"
        "    open(sys.argv[1]).read()\n"  # until the other one is dead
        "    sys.exit(75)\n"  # as a rank does that another one left
        "pipe = open(sys.argv[1], 'w')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    os.mkfifo(tmp_path / "pipe")
    assert launched(tmp_path, 2, code, str(tmp_path / "pipe")).wait() == [128 + signal.SIGKILL]
    said = (tmp_path / "said-0").read_text()
    assert said == "rank 1 was killed (SIGKILL: out of memory?)\n"


def test_ranks_start_again_as_often_as_params_allow_and_only_after_a_kill(tmp_path):
    code = (
        "import os, pathlib, signal, sys\n"
        "with pathlib.Path(sys.argv[1], os.environ['RANK']).open('a') as file:\n"
        "    print('began', file=file)\n"
        "if os.environ['RANK'] == '1':\n"
        "    os.kill(os.getpid(), int(sys.argv[2])) if sys.argv[2] != '0' else sys.exit(7)\n"
    )
    for number, (cause, began) in enumerate((("9", 3), ("15", 1), ("0", 1))):
        folder = tmp_path / str(number)
        process = launched(folder, 2, code, str(folder), cause, restarts=2)
        assert process.wait() == [{"9": 137, "15": 143, "0": 7}[cause]]
        said = (folder / "said-0").read_text()
        assert (folder / "1").read_text().split() == ["began"] * began
        assert said.count("going on from the last state") == began - 1


def test_what_gloo_and_nccl_say_of_a_lost_rank_is_told_from_other_errors():
    from torch import distributed

    assert is_peer_loss(RuntimeError("[gloo/pair.cc:547] Connection closed by peer [127.0.0.1]:1"))
    assert is_peer_loss(RuntimeError("[gloo/pair.cc:547] Connection reset by peer"))
    assert is_peer_loss(distributed.DistBackendError("NCCL error: remote process exited"))
    assert not is_peer_loss(RuntimeError("PytorchStreamWriter failed writing file"))


def test_no_rank_waits_for_hours():
    from r1omni.machine.ranks import PATIENCE

    assert PATIENCE.total_seconds() <= 30 * 60
    assert toy.machine_params().collective_timeout_seconds <= 10 * 60


def test_sigterm_reaches_the_ranks_and_their_code_comes_back(tmp_path):
    code = (
        "import os, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "pathlib.Path(sys.argv[1], os.environ['RANK']).touch()\n"
        "time.sleep(60)"
    )
    process = launched(tmp_path / "launcher", 2, code, str(tmp_path))
    until(lambda: len(list(tmp_path.glob("[01]"))) == 2)
    process.terminate()
    assert process.wait() == [143]


RANK = """
import os, pathlib, sys, time
from r1omni.cli import app
@app.command()
def train(folder: pathlib.Path):
    (folder / os.environ["RANK"]).touch()
    time.sleep(60)
app()
"""


def test_a_killed_launcher_leaves_no_rank(tmp_path):
    """The command line of each rank sees to it."""
    process = launched(tmp_path / "launcher", 2, RANK, "train", str(tmp_path))
    until(lambda: len(list(tmp_path.glob("[01]"))) == 2)
    (launcher,) = process.processes
    ranks = psutil.Process(launcher.pid).children()
    assert len(ranks) == 2
    process.kill()
    assert psutil.wait_procs(ranks, timeout=120)[1] == []


def test_one_process_and_a_launched_rank_train_by_themselves(params, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)  # an earlier test may have joined a group of one
    assert launch_ranks(params.machine.model_copy(update={"processes": 1})) is None
    monkeypatch.setenv("RANK", "0")
    assert launch_ranks(params.machine.model_copy(update={"processes": 4})) is None


def ranks_in(state: Path) -> int | None:
    """How many ranks have saved their state together, once they have."""
    for record in state.glob("*/step-*/record.json"):
        with suppress(FileNotFoundError):  # an older one goes at any moment
            return int(json.loads(record.read_text())["ranks"])
    return None


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "deepspeed": [
        *("deepspeed.launcher.runner", "--hostfile", "none"),
        *("--num_accelerators", "2", "--no_local_rank"),
    ],
}
PLACE = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
note = folder / f"{os.environ['RANK']}.part"
note.write_text(json.dumps(dict(os.environ)))
note.rename(note.with_suffix(".place"))
while not (folder / "done").exists():
    time.sleep(0.05)
"""


def stage_in(folder: Path, repo: Path, world: Path, **machine: object) -> list[str]:
    """The arguments that dvc.yaml gives to a stage of several steps, and its params.yaml."""
    values = yaml.safe_load((repo / "params.yaml").read_text())
    values["machine"] |= {"device": "cpu", "zero_stage": 2, "save_every": 1, **machine}
    values["cold_start"] |= {"epochs": 4, "batch_size": 3}
    values["tracking"] |= {"uri": "sqlite:////proc/none.db", "system_metrics": False}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return [
        *("cold-start", str(world / "parent"), "out/checkpoint"),
        *("--set", str(toy.write_set(world, folder / "set.json")), "--training", "out/training"),
    ]


def trained_by_two(folder: Path) -> None:
    """Hold that the stage has ended well and that its state is gone."""
    assert (folder / "out" / "checkpoint" / "model.safetensors").is_file()
    curves = (folder / "out" / "training" / "curves.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curves] == list(range(1, STEPS + 1))
    left = [path.name for path in (folder / ".state" / "checkpoint").iterdir()]
    assert left == ["times.jsonl"]


def as_launched(places: list[dict[str, str]], folder: Path, *arguments: object) -> None:
    """Train in the environment that a launcher gave to this rank; how many ranks saved is noted."""
    own = places[int(os.environ["RANK"])]
    os.environ.clear()
    os.environ.update(own)
    assert launch_ranks(toy.machine_params(processes=1), []) is None
    train(*arguments)  # type: ignore[arg-type]
    (folder / f"ranks-{own['RANK']}").write_text(str(ranks_in(toy.paths_in(folder).state)))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_of_another_launcher_train_together(world, tmp_path, launcher):
    """Its own processes only hold the places: ours are forked, as fresh ones take long to start."""
    (tmp_path / "place.py").write_text(PLACE)
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "place.py", str(tmp_path)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    process = run_module(command, tmp_path, tmp_path / "said", environment)
    notes = [tmp_path / f"{rank}.place" for rank in (0, 1)]
    until(lambda: not process.is_alive() or all(note.exists() for note in notes))
    assert process.is_alive(), (tmp_path / "said").read_text()[-3000:]
    places = [json.loads(note.read_text()) for note in notes]
    folder = tmp_path / "trained"
    given = ("sft", world, folder, {"zero_stage": 2, "save_every": 1}, {"epochs": 1})
    codes = Ranks(folder, 2, as_launched, places, folder, *given).wait()
    (tmp_path / "done").touch()
    process.join(300)
    assert process.exitcode == 0
    assert codes == [0, 0], (folder / "said-1").read_text()[-3000:]
    assert [(folder / f"ranks-{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    assert [row["step"] for row in kills.curves(folder)] == [1, 2, 3]


def command_line(arguments: list[str], folder: Path) -> None:
    """The stage's command as a rank that another launcher started."""
    os.chdir(folder)
    os.environ["DVC_ROOT"] = str(folder)
    sys.argv = ["r1omni", *arguments]
    main()


def log_of(rank: psutil.Process) -> Path:
    """What a rank writes to; the launcher has a folder for each but the first one."""
    return Path(f"/proc/{rank.pid}/fd/1").readlink()


def test_a_killed_rank_of_the_stages_command_is_named_and_both_go_on(repo, world, tmp_path):
    arguments = stage_in(tmp_path, repo, world, processes=2, restarts=0)
    environment = {**os.environ, "DVC_ROOT": str(tmp_path), "DS_ACCELERATOR": "cpu"}
    environment.pop("RANK", None)
    command = [sys.executable, "-m", "r1omni.cli", *arguments]
    process = run_module(command, tmp_path, tmp_path / "said", environment)
    state = tmp_path / ".state" / "checkpoint"
    until(lambda: not process.is_alive() or ranks_in(state))
    assert ranks_in(state) == 2, (tmp_path / "said").read_text()
    (last,) = [p for p in psutil.Process(process.pid).children() if log_of(p).parent.name == "1"]
    last.kill()
    process.join(600)
    assert process.exitcode == 128 + signal.SIGKILL
    said = (tmp_path / "said").read_text()
    assert "rank 1 was killed (SIGKILL: out of memory?)" in said
    assert "by peer" not in said
    assert not (tmp_path / "out" / "checkpoint").exists()
    ranks = Ranks(tmp_path / "again", 2, command_line, arguments, tmp_path)
    assert ranks.wait() == [0, 0], (tmp_path / "again" / "said-1").read_text()[-3000:]
    trained_by_two(tmp_path)
