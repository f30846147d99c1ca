"""Rollouts as a table: prompt, completions, rewards and advantages of every few steps."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from r1omni import prompts
from r1omni.machine.environment import is_first
from r1omni.training.joint import Row
from r1omni.training.rollouts import Rollouts

CLIPS_KEPT = 4  # clips of each step whose groups are kept: enough to read, small on disk


def rollout_rows(step: int, rollouts: Rollouts) -> list[Row]:
    """One row per completion of the first clips; a clip drawn twice is kept once."""
    clips, completions = rollouts.clips, rollouts.completions
    lengths = completions.mask.sum(dim=2)
    places = {clip.clip_id: p for p, clip in reversed(list(enumerate(clips)))}
    return [
        {
            "step": step,
            "clip_id": clips[p].clip_id,
            "label": clips[p].label,
            "prompt": prompts.instruction("reasoned"),
            "group": g,
            "completion": rollouts.texts[p][g],
            "reward": score.reward,
            **score.parts,
            "advantage": float(rollouts.advantages[p, g]),
            "n_tokens": int(lengths[p, g]),
            "finished": bool(completions.finished[p, g]),
        }
        for p in sorted(places.values())[:CLIPS_KEPT]
        for g, score in enumerate(rollouts.scores[p])
    ]


class RolloutTable:
    """Rows of rollouts, kept in parts beside the training state and joined at the end.

    Written by the first rank alone.
    """

    def __init__(self, folder: Path) -> None:
        self._parts = folder / "rollouts"
        self._parts.mkdir(parents=True, exist_ok=True)
        self._final = folder / "rollouts.parquet"
        self._rows: list[Row] = []

    def add(self, rows: Iterable[Row]) -> None:
        """Keep the groups of a step's first clips; a clip in two micro-batches is kept once."""
        groups: dict[object, dict[object, Row]] = {}
        for row in rows:
            groups.setdefault(row["clip_id"], {}).setdefault(row["group"], row)
        for group in list(groups.values())[:CLIPS_KEPT]:
            self._rows.extend(group.values())

    def save(self, step: int) -> None:
        """Write the rows gathered since the last save."""
        if not is_first():
            return
        partial = self._parts / f".{step:06d}"
        pd.DataFrame(self._rows).to_parquet(partial, index=False)
        partial.replace(self._parts / f"{step:06d}.parquet")
        self._rows = []

    def finish(self, step: int) -> None:
        """Join all parts into rollouts.parquet."""
        if not is_first():
            return
        if self._rows:
            self.save(step)
        parts: list[pd.DataFrame] = []
        begun = step + 1
        for part in sorted(self._parts.glob("*.parquet"), reverse=True):
            rows = pd.read_parquet(part)
            own = rows[rows.step < begun]  # a part from before a kill may overlap the next one
            if len(own):
                parts.insert(0, own)
                begun = int(own.step.min())
        pd.concat(parts, ignore_index=True).to_parquet(self._final, index=False)
