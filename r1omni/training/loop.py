"""The steps of a training: each is logged, states are saved now and then, SIGTERM is heeded."""

from collections.abc import Callable, Mapping

from r1omni.config import MachineParams
from r1omni.machine.curves import Curves, Log
from r1omni.machine.interruption import Stopped, defer_sigterm
from r1omni.machine.progress import steps_bar
from r1omni.machine.ranks import any_rank
from r1omni.machine.state_folders import TrainingPaths, prune_states
from r1omni.training.engine import Engine


def run_steps(
    take: Callable[[int], Mapping[str, float]],
    steps: int,
    trainer: Engine,
    paths: TrainingPaths,
    *,
    recipe: str,
    machine: MachineParams,
    log: Log,
    headline: Callable[[Mapping[str, float]], str],
    updates_per_step: int = 1,
    save_more: Callable[[int], None] = lambda _: None,
) -> None:
    """`take` every step from the newest state of the recipe on; it returns the step's metrics.

    `headline`: what the progress bar says of them. `save_more`: what is saved before each state.
    Raises Stopped after SIGTERM to any rank, when the step has ended and its state is saved.
    """
    name = paths.training.name
    first = trainer.resume(paths.state, recipe) // updates_per_step + 1
    curves = Curves(paths.state / "curves.jsonl", log)
    curves.rewind(first - 1)
    with steps_bar() as progress, defer_sigterm() as stopping:
        task = progress.add_task(name, total=steps)
        for step in range(first, steps + 1):
            metrics = take(step)
            curves.log(step, metrics)
            stop = any_rank(stopping())
            if step < steps and (stop or step % machine.save_every == 0):
                save_more(step)
                trainer.save(paths.state, recipe)
                prune_states(paths.state)
            if step < steps and stop:
                raise Stopped(step)
            progress.update(task, completed=step, description=f"{name} · {headline(metrics)}")
