"""The tiny towers of the embedded default, trained to see and hear.

The public towers were trained on everything; ours learn from generic clips, by regressing what
each clip shows (face, voice, and also scene and speaker, since real towers see those too). Then
they are frozen, as in the paper.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional

from r1omni.corpora.paths import resolve_clip
from r1omni.corpora.synthetic.attributes import (
    ATTRIBUTES,
    FACE,
    SCENES,
    SPEAKERS,
    UNSEEN,
    VOICE,
)
from r1omni.machine.curves import Log
from r1omni.machine.ranks import assigned_names, gather_dict
from r1omni.media import TowerInputs
from r1omni.training.batches import batch_at
from r1omni.training.schedules import cosine_decay
from r1omni.training_config import BaseParams

Targets = Mapping[str, int]
ANNOTATIONS = "annotations.json"


@dataclass(frozen=True)
class GenericClip:
    """A clip of the generic corpus: what it shows, in words and as classes."""

    clip_id: str
    path: str  # relative to the corpus root
    caption: str
    emotion: str
    targets: Targets  # attribute -> 0..2, scene (or UNSEEN), speaker


def read_generic(root: Path) -> list[GenericClip]:
    """The clips of a generic corpus (our own, so it is read here and not by an adapter).

    Raises ValueError naming file and entry where one lacks what a tower learns from.
    """
    path = root / ANNOTATIONS
    if not path.is_file():
        raise ValueError(
            f"{root}: neither a checkpoint (no config.json) nor a generic corpus (no {ANNOTATIONS})"
        )
    clips = []
    for i, entry in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        try:
            shown = entry["attributes"]
            targets = {name: int(shown[name]) + 1 for name in ATTRIBUTES}
            targets["speaker"] = int(shown["speaker"])
            targets["scene"] = int(shown["scene"]) if entry["style"] == "wild" else UNSEEN
            resolve_clip(root, entry["video"])  # refuses a path that leaves the root
            clips.append(
                GenericClip(
                    clip_id=PurePosixPath(entry["video"]).with_suffix("").as_posix(),
                    path=entry["video"],
                    caption=entry["conversations"][1]["value"],
                    emotion=entry["emotion"],
                    targets=targets,
                )
            )
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"{path}:[{i}]: lacks {error}; expected a video with its caption, "
                "'emotion' and 'attributes'"
            ) from error
    return clips


@dataclass(frozen=True)
class Tower:
    """A tower to train, and what its heads read of B clips: (B, `n_tokens`, `width`)."""

    module: nn.Module
    tokens: Callable[[Sequence[TowerInputs]], Tensor]
    n_tokens: int
    width: int


class AttributeHeads(nn.Module):
    """Two linear classifiers per attribute: over all of a tower's tokens, and over their mean.

    The first lets a token see what stands in its place; the second makes it tell all the others,
    so that a small language model can read it anywhere.
    """

    def __init__(self, n_tokens: int, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.placed = nn.ModuleDict({k: nn.Linear(n_tokens * width, n) for k, n in classes.items()})
        self.pooled = nn.ModuleDict({k: nn.Linear(width, n) for k, n in classes.items()})

    def forward(self, tokens: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy, and the pooled heads' accuracy: (B, N, D), {name: (B,)} -> (), ().

        A target of -1 does not count.
        """
        losses, hits = [], []
        for name in self.pooled:
            known = targets[name] >= 0
            wanted = targets[name][known]
            pooled = self.pooled[name](tokens.mean(dim=1)[known])
            placed = self.placed[name](tokens.flatten(1)[known])
            losses += [functional.cross_entropy(logits, wanted) for logits in (pooled, placed)]
            hits.append((pooled.argmax(dim=-1) == wanted).float().mean())
        return torch.stack(losses).sum(), torch.stack(hits).mean()


CLASSES: Final[Mapping[str, Mapping[str, int]]] = {
    "vision": {**dict.fromkeys(FACE, 3), "scene": SCENES},
    "audio": {**dict.fromkeys(VOICE, 3), "speaker": SPEAKERS},
}


def train_towers(
    towers: Mapping[str, Tower],
    clips: Sequence[tuple[TowerInputs, Targets]],
    *,
    base: BaseParams,
    log: Log,
) -> None:
    """Train the towers `vision` and `audio` in place by attribute regression, side by side where
    there are two ranks.
    """
    heads = {name: AttributeHeads(t.n_tokens, t.width, CLASSES[name]) for name, t in towers.items()}
    own = assigned_names(list(heads))
    curves = gather_dict(
        {name: _train_tower(name, towers[name], heads[name], clips, base) for name in own}
    )
    trained = gather_dict({name: towers[name].module.state_dict() for name in own})
    for name, tower in towers.items():
        tower.module.load_state_dict(trained[name])
    for step, rows in enumerate(zip(*curves.values(), strict=True), start=1):
        if step % 10 == 0 or step == base.tower_steps:
            log(step, {key: value for row in rows for key, value in row.items()})


def _train_tower(
    name: str,
    tower: Tower,
    heads: AttributeHeads,
    clips: Sequence[tuple[TowerInputs, Targets]],
    base: BaseParams,
) -> list[dict[str, float]]:
    """Train a tower with its heads; the metrics of every step."""
    trained = [*tower.module.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=base.tower_lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine_decay(base.tower_steps, 0.05))
    curve = []
    for step in track(range(1, base.tower_steps + 1), f"{name} tower", transient=True):
        batch = batch_at(clips, step, base.tower_batch_size, base.seed)
        targets = {key: torch.tensor([t[key] for _, t in batch]) for key in batch[0][1]}
        loss, right = heads(tower.tokens([inputs for inputs, _ in batch]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        curve.append({f"towers/{name}_loss": loss.item(), f"towers/{name}_accuracy": float(right)})
    optimizer.zero_grad()  # a stale gradient would count in the next training's norm
    return curve
