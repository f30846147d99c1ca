"""How long ranks wait for each other: minutes in a step, longer where rank 0 works alone.

Two real ranks under gloo. The timeout here is SHORT; who sleeps, sleeps LONG.
"""

import time
from pathlib import Path

import pytest
import toy
from forked import Ranks

SHORT, LONG = 3.0, 8.0  # seconds


def small_engine():
    """An engine of a few weights, after one step that no rank came late to."""
    import torch

    from r1omni.machine.ranks import barrier
    from r1omni.training.engine import Engine

    torch.manual_seed(0)
    engine = Engine(
        torch.nn.Linear(2, 1),
        toy.machine_params(processes=2, collective_timeout_seconds=SHORT),
        dtype="fp32",
        lr=0.1,
        schedule=lambda _step: 1.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
    )
    barrier()
    learn(engine)
    return engine


def learn(engine) -> None:
    import torch

    engine.backward(engine.model(torch.ones(1, 2)).sum())
    engine.update()


def one_is_late(where: str) -> None:
    """Rank 1 sleeps in the second step: before its collectives, or between ours and DeepSpeed's."""
    from r1omni.machine.environment import is_first

    engine = small_engine()
    if not is_first():
        if where == "our own":
            time.sleep(LONG)
        else:
            backward = engine._engine.backward
            engine._engine.backward = lambda loss: (time.sleep(LONG), backward(loss))
    learn(engine)


@pytest.mark.parametrize("where", ["our own", "DeepSpeed's"])
def test_a_rank_that_stays_away_from_a_step_ends_the_others_with_one_sentence(tmp_path, where):
    codes = Ranks(tmp_path, 2, one_is_late, where).wait(60.0)
    said = (tmp_path / "said-0").read_text()
    assert codes[0] == 1, said
    assert (
        said.strip()
        .splitlines()[-1]
        .startswith(
            "r1omni.machine.ranks.RankMissing: rank 0 waited 3 s for another rank in a step "
            "(machine.collective_timeout_seconds): "
        )
    )


def first_is_slow(folder: Path) -> None:
    """Rank 0 alone hashes a state slowly, when it is written and read, and converts slowly."""
    from r1omni.machine import states
    from r1omni.machine.environment import is_first
    from r1omni.machine.state_folders import open_state
    from r1omni.training.checkpoints import await_checkpoint

    def slow_hash(path: Path, sha256=states.sha256) -> str:
        time.sleep(LONG / 2)
        return sha256(path)

    engine = small_engine()
    paths = open_state(toy.paths_in(folder), "recipe")
    states.sha256 = slow_hash  # only rank 0 calls it
    engine.save(paths.state, "recipe")
    learn(engine)
    resumed = small_engine()
    assert resumed.resume(paths.state, "recipe") == 1
    learn(resumed)
    if is_first():
        time.sleep(LONG / 2)
    await_checkpoint(paths)
    learn(resumed)


def test_ranks_wait_for_the_first_longer_than_for_each_other(tmp_path):
    codes = Ranks(tmp_path, 2, first_is_slow, tmp_path / "out").wait(120.0)
    assert codes == [0, 0], (tmp_path / "said-1").read_text()[-2000:]
    state = toy.state_in(tmp_path / "out")
    assert [path.name for path in state.glob("step-*")] == ["step-000001"]
