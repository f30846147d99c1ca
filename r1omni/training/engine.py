"""DeepSpeed's engine behind four verbs: backward, update, save, resume.

One process or N (ranks.py), ZeRO 0-3, fp32 or bf16, CPU or CUDA, all set by params. Each rank
computes its gradient with torch and hands it to DeepSpeed once a step. DeepSpeed's hooks therefore
see the same parameters in the same order on every rank. ZeRO shards the optimiser's state (1), the
reduced gradients (2) and, while the optimiser runs, the weights (3).
Between updates every rank holds all weights and its own gradient, because rollouts of different
lengths read the weights and a collective gather inside them would deadlock. So stage 3 needs as
much memory at the step's peak as stage 2; it exists for its states and for recipes that name it.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from r1omni.config import MachineParams
from r1omni.machine.environment import is_first, world_size
from r1omni.machine.ranks import (
    gather,
    join_ranks,
    limit_wait,
    shares,
    step_collectives,
    sum_over_ranks,
)
from r1omni.machine.states import WHOLE, newest_state, write_state
from r1omni.training.deepspeed_setup import (
    TrainedWeights,
    build_optimizer,
    deepspeed_config,
    import_deepspeed,
    no_first_step,
    refuse_other_device,
)
from r1omni.training.schedules import Schedule

_log = logging.getLogger(__name__)


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient is non-finite; names the step, the clips and the last good state."""


class Engine:
    """A model in training: AdamW and a schedule inside DeepSpeed.

    On every rank: call `backward` once per micro-batch, then `update`. The step's loss is the mean
    over all items of all micro-batches of all ranks; `weight` is a micro-batch's number of items.
    N processes compute what one process does with the same global batch. DeepSpeed and the states
    know the trained weights alone. The frozen ones are the start's: who resumes has loaded them.
    """

    def __init__(
        self,
        model: nn.Module,
        machine: MachineParams,
        *,
        dtype: Literal["fp32", "bf16"],
        lr: float,
        schedule: Schedule,
        weight_decay: float,
        max_grad_norm: float,
        skip_nonfinite: int = 0,
        updates_per_step: int = 1,
    ) -> None:
        self.device = join_ranks(machine)
        deepspeed = import_deepspeed()
        refuse_other_device(deepspeed, self.device)
        model = in_precision(model, dtype).to(self.device)
        self._trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = build_optimizer(self._trained, machine, lr=lr, weight_decay=weight_decay)
        schedules = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        with no_first_step(optimizer):
            self._engine, *_ = deepspeed.initialize(
                model=TrainedWeights(model),
                optimizer=optimizer,
                lr_scheduler=schedules,
                config=deepspeed_config(machine, dtype, max_grad_norm),
            )
        limit_wait(self._engine.data_parallel_group)
        self.model = model
        self.step_count = 0  # updates so far
        self.n_skipped = 0
        self._skip_nonfinite = skip_nonfinite
        self._updates_per_step = updates_per_step
        self.newest_state: Path | None = None
        self._machine, self._dtype = machine, dtype
        self._mean: list[Tensor] = []  # this step's mean gradient so far, over `_weight` items
        self._weight = 0.0
        self._n_backward = 0
        self._loss = 0.0  # the sum over those items
        self._bad: list[tuple[str, list[str]]] = []  # what is non-finite, and its clips
        self._whole = ExitStack()
        self._gather_weights()

    def shares(self, n: int) -> list[range]:
        """This rank's indices into a global batch of n, machine.micro_batch_size at a time."""
        return shares(n, self._machine.micro_batch_size)

    def backward(
        self,
        loss: Tensor,
        weight: float = 1.0,
        clips: Sequence[str] = (),
        broken: Sequence[str] = (),
    ) -> None:
        """Add the gradient of `loss`, a mean over `weight` items (tokens or completions).

        `clips` are the micro-batch's clips; `broken` are those whose own loss is non-finite. If
        `loss` is non-finite, the error of `update` names `broken`, or `clips` if `broken` is empty.
        If only its gradient is non-finite, the error names `clips`.
        Before `update` nothing is sent to other ranks and no weight's `grad` changes.
        """
        self._n_backward += 1
        if weight == 0.0:
            return
        value = float(loss.detach())
        if not math.isfinite(value):
            self._bad.append((f"the loss is {value}", list(broken or clips)))
            return
        found: Sequence[Tensor | None] = [None] * len(self._trained)
        if loss.requires_grad:  # else its gradient is 0 and only its weight counts
            found = torch.autograd.grad(loss, self._trained, allow_unused=True)
        gradient = [
            torch.zeros_like(p) if g is None else g
            for p, g in zip(self._trained, found, strict=True)
        ]
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradient))))
        if not math.isfinite(norm):
            self._bad.append((f"the gradient's norm is {norm}", list(clips)))
            return
        self._loss += value * weight
        self._weight += weight
        if not self._mean:
            self._mean = gradient
            return
        del found
        self._mean = [mean.float() for mean in self._mean]  # bf16 would swallow small additions
        for mean in reversed(self._mean):  # `pop` frees each new part as soon as it was added
            mean.lerp_(gradient.pop().float(), weight / self._weight)

    def update(self) -> dict[str, float]:
        """The optimiser's metrics after one update of the weights from all ranks' gradients.

        Raises NonFiniteLoss on every rank, before any weight changes, if a loss or a gradient of
        any rank is non-finite. The first `skip_nonfinite` such updates of a training are logged and
        left out instead: the schedule goes on, the weights stay.
        """
        self.step_count += 1
        gradient = self._mean or [torch.zeros_like(p) for p in self._trained]
        self._mean = []  # so that the list is freed once DeepSpeed has the gradient
        weight, loss, n_bad, n_backward = sum_over_ranks(
            [self._weight, self._loss, len(self._bad), self._n_backward]
        )
        assert n_backward > 0, "no rank called backward"
        self._n_backward = 0
        if n_bad:  # equal on every rank, so every rank joins this collective
            return self._skip(self._blame(gather(self._bad)))
        weight = weight or 1.0  # nothing to learn: the gradient is 0
        # DeepSpeed averages over ranks as if each had the same number of items.
        scale = self._weight * world_size() / weight
        if scale != 1.0:
            torch._foreach_mul_(gradient, scale)
        lr = self._engine.get_lr()[0]
        handover: Tensor = _Handover.apply(gradient, *self._trained)
        with step_collectives():
            self._engine.backward(handover)
            self._weight, self._loss = 0.0, 0.0
            grad_norm = self._plain_grad_norm()
            self._whole.close()
            self._engine.step()
            self._gather_weights()
        if grad_norm is None:  # DeepSpeed's own optimisers keep the gradients and their norm
            grad_norm = float(self._engine.get_global_grad_norm())
        return {
            "train/loss": loss / weight,
            "optim/lr": float(lr),
            "optim/grad_norm": grad_norm,
            **({"optim/skipped": float(self.n_skipped)} if self._skip_nonfinite else {}),
        }

    def _skip(self, blame: str) -> dict[str, float]:
        """Leave the weights as they are. Raises NonFiniteLoss after `skip_nonfinite` times."""
        if self.n_skipped >= self._skip_nonfinite:
            raise NonFiniteLoss(blame)
        self.n_skipped += 1
        if is_first():
            _log.warning("%s (%d of %d skipped)", blame, self.n_skipped, self._skip_nonfinite)
        self._bad, self._weight, self._loss = [], 0.0, 0.0
        lr = float(self._engine.get_lr()[0])
        self._engine.lr_scheduler.step()
        return {"optim/lr": lr, "optim/skipped": float(self.n_skipped)}

    def save(self, folder: Path, recipe: str) -> None:
        """Write the training state after this step; the newest machine.keep_last states stay."""
        self._whole.close()
        self.newest_state = write_state(
            folder,
            self.step_count,
            recipe,
            self._machine.keep_last,
            self._layout(),
            self._write,
        )
        self._gather_weights()

    def resume(self, folder: Path, recipe: str) -> int:
        """The step after which the newest complete state of this recipe was saved; 0 without one.

        That state is loaded. Raises StateDoesNotFit if it was saved by another number of ranks or
        under another ZeRO stage and cannot be divided anew.
        """
        found = newest_state(folder, recipe, self._layout())
        if found is None:
            return 0
        self.newest_state, self.step_count = found
        self._whole.close()
        loaded, kept = self._engine.load_checkpoint(str(self.newest_state), tag="state")
        if loaded is None:
            raise RuntimeError(f"{self.newest_state}: is complete, but DeepSpeed cannot load it")
        self.n_skipped = int(kept.get("skipped", 0))
        self._gather_weights()
        return self.step_count

    def _layout(self) -> str:
        """How a state is divided among the ranks; with torch's own optimiser it is not divided."""
        if self._plain:
            return WHOLE
        return f"ZeRO {self._machine.zero_stage} in {self._dtype}"

    def _write(self, folder: Path) -> None:
        kept = {"skipped": self.n_skipped}
        self._engine.save_checkpoint(str(folder), tag="state", client_state=kept, save_latest=False)

    def _gather_weights(self) -> None:
        """Under ZeRO 3, gather the trained weights on every rank until `self._whole` is closed."""
        if self._machine.zero_stage == 3:
            deepspeed = import_deepspeed()
            self._whole.enter_context(deepspeed.zero.GatheredParameters(self._trained))

    @property
    def _plain(self) -> bool:
        """Whether the optimiser is torch's own; DeepSpeed's divide their state over the ranks."""
        return not (self._engine.zero_optimization() or self._engine.bfloat16_enabled())

    def _plain_grad_norm(self) -> float | None:
        """The gradient's norm before clipping where the optimiser is torch's own, else None."""
        if not self._plain:
            return None
        grads = [p.grad for p in self._trained if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))

    def _blame(self, bad_by_rank: Sequence[Sequence[tuple[str, list[str]]]]) -> str:
        found = [
            f"{what} ({f'rank {rank}: ' if len(bad_by_rank) > 1 else ''}"
            f"{', '.join(dict.fromkeys(clips)) or 'clips not named'})"
            for rank, bad in enumerate(bad_by_rank)
            for what, clips in bad
        ]
        left = self.newest_state or "none: it would start at step 1"
        step, update = divmod(self.step_count - 1, self._updates_per_step)
        which = ""
        if self._updates_per_step > 1:
            which = f", update {update + 1}"
            left = f"{left} (its number counts updates)" if self.newest_state else left
        return (
            f"step {step + 1}{which}: {'; '.join(found)}; the weights were not updated. "
            f"Last good state: {left}"
        )


def in_precision(model: nn.Module, dtype: Literal["fp32", "bf16"]) -> nn.Module:
    """The model with its weights in the engine's precision; its parent may have another one.

    In bf16 buffers keep theirs: rotary frequencies are float32.
    """
    if dtype == "fp32":
        return model.float()
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16()
    return model


class _Handover(torch.autograd.Function):
    """A loss of 0 whose gradient is the given one, so that DeepSpeed's hooks run once each.

    The list is emptied on the way and no reference stays: a second copy of the gradient would be
    as large as the model.
    """

    @staticmethod
    def forward(ctx: Any, gradient: list[Tensor], *weights: Tensor) -> Tensor:
        gradient.reverse()
        ctx.gradient = [gradient.pop().to(weight.dtype) for weight in weights]
        return weights[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradient: list[Tensor] = ctx.gradient
        ctx.gradient = []
        return (None, *gradient)
