"""Dynamic sampling: more clips are sampled until enough groups teach.

A group whose advantages are all 0 teaches nothing: its rewards are equal (DAPO, arXiv 2503.14476,
section 3.2), or with rejection sampling none is the full reward. Nor does one of truncated
completions where these are masked. Which clips come, and which groups are learned from, is a
function of seed, step and the weights alone, on any number of ranks.
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
    roll: Callable[[int, Sequence[int]], Rollouts],
    teaches: Callable[[Rollouts], Sequence[bool]],
    own: Sequence[int],
    n: int,
    max_factor: int,
) -> Searched:
    """Sample rounds of n clips until n groups teach; `max_factor` rounds at most.

    `roll(round, places)` samples this rank's places of a round's batch, and `teaches` says which of
    its groups change the policy. Learned from are the first n such groups of all ranks, by round
    and place; where there is none, the first round's groups, whose KL still counts. Every rank
    calls it together.
    """
    rolled: list[Rollouts] = []
    found: list[Place] = []
    for number in range(max_factor):
        useful: list[Place] = []
        if own:
            rolled.append(roll(number, own))
            useful = [
                (number, place)
                for place, does in zip(own, teaches(rolled[-1]), strict=True)
                if does
            ]
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
