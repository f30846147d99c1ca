"""Rollouts as a table: prompt, completions, rewards and advantages of every few steps."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from r1omni import prompts
from r1omni.corpora.clip import Clip
from r1omni.rewards import Score
from r1omni.training.rollouts import Groups

CLIPS_KEPT = 4  # clips of each step whose groups are kept: enough to look at, small on disk


class RolloutTable:
    """Rows of rollouts, kept in parts beside the training state and joined at the end."""

    def __init__(self, folder: Path) -> None:
        self._parts = folder / "rollouts"
        self._parts.mkdir(parents=True, exist_ok=True)
        self._final = folder / "rollouts.parquet"
        self._rows: list[dict[str, object]] = []

    def add(
        self,
        step: int,
        clips: Sequence[Clip],
        groups: Groups,
        scores: Sequence[Sequence[Score]],
        advantages: torch.Tensor,
    ) -> None:
        """Keep the groups of the step's first clips; a clip drawn twice is kept once."""
        lengths = groups.completion_mask.sum(dim=2)
        places = {clip.clip_id: p for p, clip in reversed(list(enumerate(clips)))}
        for p in sorted(places.values())[:CLIPS_KEPT]:
            clip = clips[p]
            for g, score in enumerate(scores[p]):
                self._rows.append(
                    {
                        "step": step,
                        "clip_id": clip.clip_id,
                        "label": clip.label,
                        "prompt": prompts.instruction("reasoned"),
                        "group": g,
                        "completion": groups.texts[p][g],
                        "reward": score.reward,
                        **score.parts,
                        "advantage": float(advantages[p, g]),
                        "n_tokens": int(lengths[p, g]),
                        "finished": bool(groups.finished[p, g]),
                    }
                )

    def rewind(self, step: int) -> None:
        """Drop the parts written after `step`."""
        for part in self._parts.glob("*.parquet"):
            if int(part.stem) > step:
                part.unlink()

    def save(self, step: int) -> None:
        """Write the rows gathered since the last save."""
        partial = self._parts / f".{step:06d}"
        pd.DataFrame(self._rows).to_parquet(partial, index=False)
        partial.replace(self._parts / f"{step:06d}.parquet")
        self._rows = []

    def finish(self, step: int) -> None:
        """Join all parts into rollouts.parquet."""
        if self._rows:
            self.save(step)
        parts = [pd.read_parquet(part) for part in sorted(self._parts.glob("*.parquet"))]
        pd.concat(parts, ignore_index=True).to_parquet(self._final, index=False)
