"""The rollout viewer: groups of completions with their rewards and advantages, early and late."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

COLUMNS: Final[tuple[str, ...]] = (
    "step", "clip_id", "label", "prompt", "completion", "reward", "advantage", "n_tokens",
    "finished",
)  # fmt: skip
_OTHER_COLUMNS: Final = (*COLUMNS, "group")  # all others are rewards, by their names


@dataclass(frozen=True)
class Rollout:
    """One sampled completion; `parts` are its rewards by name."""

    completion: str
    reward: float
    parts: Mapping[str, float]
    advantage: float
    n_tokens: int
    finished: bool


@dataclass(frozen=True)
class Group:
    """The completions sampled for one clip at one step; `prompt` is the question."""

    step: int
    clip_id: str
    label: str
    prompt: str
    rollouts: tuple[Rollout, ...]

    @property
    def mean_reward(self) -> float:
        """The mean reward of the group."""
        return sum(r.reward for r in self.rollouts) / len(self.rollouts)

    @property
    def teaches(self) -> bool:
        """Whether the rewards differ; equal rewards give zero advantages."""
        return len({r.reward for r in self.rollouts}) > 1


@dataclass(frozen=True)
class Viewer:
    """The first and the last groups of a training."""

    early: tuple[Group, ...]
    late: tuple[Group, ...]


def read_groups(path: Path, count: int) -> Viewer | None:
    """The first and last `count` / 2 groups of a rollouts table; None if the file is missing.

    Raises ValueError, naming the file, for missing columns.
    """
    if not path.is_file():
        return None
    table = pd.read_parquet(path)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"{path}: missing columns {missing}; rollouts have {list(COLUMNS)}")
    keys = table[["step", "clip_id"]].drop_duplicates().sort_values("step", kind="stable")
    half = max(count // 2, 1)
    early = keys.head(min(half, len(keys)))
    late = keys.iloc[len(early) :].tail(half)
    return Viewer(_groups(table, early), _groups(table, late))


def _groups(table: pd.DataFrame, keys: pd.DataFrame) -> tuple[Group, ...]:
    groups = []
    for step, clip_id in keys.itertuples(index=False):
        rows = table[(table["step"] == step) & (table["clip_id"] == clip_id)]
        rows = rows.sort_values("advantage", ascending=False, kind="stable")
        rollouts = tuple(_rollout(row) for row in rows.to_dict("records"))
        label, prompt = (str(rows[name].iloc[0]) for name in ("label", "prompt"))
        groups.append(Group(int(step), str(clip_id), label, prompt, rollouts))
    return tuple(groups)


def _rollout(row: Mapping[Any, Any]) -> Rollout:
    return Rollout(
        completion=str(row["completion"]),
        reward=float(row["reward"]),
        parts={str(name): float(row[name]) for name in row if name not in _OTHER_COLUMNS},
        advantage=float(row["advantage"]),
        n_tokens=int(row["n_tokens"]),
        finished=bool(row["finished"]),
    )
