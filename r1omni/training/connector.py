"""The connector's warm-up: its tokens tell what the towers saw before the language model reads.

Public connectors start from millions of captions. A tiny language model that learns to read while
its connector learns to speak finds some attributes in a few hundred steps and others never: brows,
eyes, mouth and melody stayed at chance. With this regression first it reads most of them.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn import functional

from r1omni import prompts
from r1omni.config import BaseParams
from r1omni.corpora.synthetic.attributes import FACE, VOICE
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.feature_store import FeatureBatch
from r1omni.training.batches import batch_at
from r1omni.training.engine import cosine_decay
from r1omni.training.journal import Log
from r1omni.training.towers import GenericClip


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
    model: HumanOmniForConditionalGeneration,
    processor: HumanOmniProcessor,
    clips: Sequence[GenericClip],
    load: Callable[[Sequence[str]], FeatureBatch],
    *,
    base: BaseParams,
    log: Log,
) -> None:
    """Train both projectors in place, `base.connector_steps` steps at the alignment's rate and
    batch size, to show every attribute in the mean of their tokens."""
    width = model.config.text_config.hidden_size
    seen, heard = TokenHeads(width, list(FACE)), TokenHeads(width, list(VOICE))
    gate_ids, gate_mask = processor.encode_gate(prompts.CAPTION_QUESTION)
    trained = [
        *model.model.mm_projector.parameters(),
        *model.model.audio_projector.parameters(),
        *seen.parameters(),
        *heard.parameters(),
    ]
    optimizer = torch.optim.AdamW(trained, lr=base.align.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, cosine_decay(base.connector_steps, base.align.warmup)
    )
    with torch.no_grad():
        gate = model.gate_weights(torch.tensor([gate_ids]), torch.tensor([gate_mask]))
    with Progress(transient=True) as progress:
        task = progress.add_task("connector", total=base.connector_steps)
        for step in range(1, base.connector_steps + 1):
            batch = batch_at(clips, step, base.align.batch_size, base.seed)
            features = load([clip.clip_id for clip in batch])
            targets = {
                name: torch.tensor([clip.targets[name] for clip in batch])
                for name in (*FACE, *VOICE)
            }
            loss = seen(
                model.project_vision(features.vision, gate.expand(len(batch), -1)), targets
            ) + heard(model.project_audio(features.audio), targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, base.align.max_grad_norm)
            optimizer.step()
            schedule.step()
            if step % 10 == 0 or step == base.connector_steps:
                log(step, {"connector/loss": loss.item()})
            progress.update(task, completed=step, description=f"connector {loss.item():.2f}")
    optimizer.zero_grad()  # a stale gradient would count in the next training's norm
