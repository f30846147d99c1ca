"""The connector's warm-up: its tokens tell what the towers saw before the language model reads.

Public connectors start from millions of captions. A tiny language model that learns to read while
its connector learns to speak finds some attributes in a few hundred steps and others never: brows,
eyes, mouth and melody stayed at chance. With this regression first it reads most of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional

from r1omni.base_model.towers import GenericClip
from r1omni.corpora.synthetic.attributes import FACE, VOICE
from r1omni.machine.curves import Log
from r1omni.machine.progress import steps_bar
from r1omni.machine.ranks import assigned_names, gather_dict
from r1omni.model.feature_store import Features
from r1omni.training.batches import batch_at
from r1omni.training.schedules import cosine_decay
from r1omni.training_config import BaseParams


@dataclass(frozen=True)
class Connector:
    """What makes tokens of a tower's features: those of B clips -> (B, T, D), D being `width`."""

    module: nn.Module
    tokens: Callable[[Sequence[Features]], Tensor]
    width: int


class TokenHeads(nn.Module):
    """A linear classifier of three levels per attribute over the mean of a modality's tokens.

    It starts at zero, so no random numbers are drawn.
    """

    def __init__(self, width: int, names: Sequence[str]) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(width, 3) for name in names})
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Summed cross-entropy: (B, T, D), {name: (B,)} -> ()."""
        pooled = tokens.mean(dim=1)
        losses = [functional.cross_entropy(h(pooled), targets[n]) for n, h in self.heads.items()]
        return torch.stack(losses).sum()


def train_connector(
    connectors: Mapping[str, Connector],
    clips: Sequence[GenericClip],
    load: Callable[[Sequence[str]], Sequence[Features]],
    *,
    base: BaseParams,
    log: Log,
) -> None:
    """Train the connectors `vision` and `audio` in place to show every attribute in the mean of
    their tokens: `base.connector_steps` steps at the alignment's rate and batch size.

    Of two ranks each trains one; they meet once a step, in the norm by which both are clipped.
    """
    shown = {"vision": list(FACE), "audio": list(VOICE)}
    heads = {name: TokenHeads(c.width, shown[name]) for name, c in connectors.items()}
    own = assigned_names(list(heads))
    trained = {n: [*connectors[n].module.parameters(), *heads[n].parameters()] for n in own}
    optimizer = torch.optim.AdamW(chain(*trained.values()), lr=base.align.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, cosine_decay(base.connector_steps, base.align.warmup)
    )
    with steps_bar() as progress:
        task = progress.add_task("connector", total=base.connector_steps)
        for step in range(1, base.connector_steps + 1):
            batch = batch_at(clips, step, base.align.batch_size, base.seed)
            features = load([clip.clip_id for clip in batch])
            targets = {
                name: torch.tensor([clip.targets[name] for clip in batch])
                for name in (*FACE, *VOICE)
            }
            losses = {name: heads[name](connectors[name].tokens(features), targets) for name in own}
            optimizer.zero_grad()
            torch.autograd.backward(list(losses.values()))
            shared = gather_dict({n: (losses[n].item(), _squared_norm(trained[n])) for n in own})
            loss = sum(part for part, _ in shared.values())
            norm = torch.tensor(sum(square for _, square in shared.values())).sqrt()
            nn.utils.clip_grads_with_norm_(chain(*trained.values()), base.align.max_grad_norm, norm)
            optimizer.step()
            schedule.step()
            if step % 10 == 0 or step == base.connector_steps:
                log(step, {"connector/loss": loss})
            progress.update(task, completed=step, description=f"connector {loss:.2f}")
    optimizer.zero_grad()  # a stale gradient would count in the next training's norm
    states = gather_dict({name: connectors[name].module.state_dict() for name in own})
    for name, connector in connectors.items():
        connector.module.load_state_dict(states[name])


def _squared_norm(parameters: Sequence[nn.Parameter]) -> float:
    return float(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])) ** 2
