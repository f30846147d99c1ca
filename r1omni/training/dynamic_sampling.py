"""Dynamic sampling: more clips are sampled until enough groups have different rewards.

A group whose rewards are all equal teaches nothing (DAPO, arXiv 2503.14476, section 3.2). Which
clips come, and which groups are learned from, is a function of seed, step and the weights alone, on
any number of ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from r1omni.machine.ranks import gather
from r1omni.training.rollouts import Rollouts

Place = tuple[int, int]  # round, place in its batch


@dataclass(frozen=True)
class Searched:
    """What this rank sampled in each round, and the groups in it that are learned from."""

    rolled: list[Rollouts]
    chosen: list[list[int]]  # by the group's index in its round's rollouts


def search_groups(
    roll: Callable[[int, Sequence[int]], Rollouts], own: Sequence[int], n: int, max_factor: int
) -> Searched:
    """Sample rounds of n clips until n groups have different rewards; `max_factor` rounds at most.

    `roll(round, places)` samples this rank's places of a round's batch. Learned from are the first
    n such groups of all ranks, by round and place; where there is none, the first round's groups,
    whose KL still counts. Every rank calls it together.
    """
    rolled: list[Rollouts] = []
    found: list[Place] = []
    for number in range(max_factor):
        useful: list[Place] = []
        if own:
            rolled.append(roll(number, own))
            differ = rolled[-1].advantages.ne(0.0).any(dim=1).tolist()
            useful = [(number, place) for place, d in zip(own, differ, strict=True) if d]
        found += sorted(place for places in gather(useful) for place in places)
        if len(found) >= n:
            break
    wanted = set(found[:n]) or {(0, place) for place in own}
    return Searched(
        rolled,
        [
            [i for i, place in enumerate(own) if (number, place) in wanted]
            for number in range(len(rolled))
        ],
    )
