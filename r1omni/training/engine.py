"""DeepSpeed's engine behind four verbs: step, save, load, export.

One process without a launcher, or N under torchrun or deepspeed: the environment decides. Training
state is kept outside DVC's outputs, written to a temporary name and renamed, with checksums.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from r1omni.config import EngineParams

Schedule = Callable[[int], float]


class NonFiniteLoss(RuntimeError):
    """The loss or the gradient stopped being a number; says at which step."""


def linear_decay(steps: int, warmup: float) -> Schedule:
    """The factor on the learning rate: up over the warm-up share, then straight down to 0."""
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (steps - step) / max(1, steps - rising))

    return factor


def cosine_decay(steps: int, warmup: float) -> Schedule:
    """The factor on the learning rate: up over the warm-up share, then half a cosine down to 0."""
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(1, steps - rising)
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))

    return factor


def step_generator(seed: int, step: int) -> torch.Generator:
    """Randomness of one step, a function of seed and step alone, so a resumed run repeats it."""
    digest = hashlib.sha256(f"{seed}/{step}/{_rank()}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def prepare_process(engine: EngineParams) -> torch.device:
    """The device to train on, in a process group: the launcher's, or one of this process alone."""
    cuda = torch.cuda.is_available()
    if engine.device == "cuda" and not cuda:
        raise ValueError("engine.device is cuda, but this machine has no CUDA device")
    device = "cuda" if cuda and engine.device != "cpu" else "cpu"
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    if "MASTER_ADDR" not in os.environ and not torch.distributed.is_initialized():
        torch.distributed.init_process_group(  # alone: no port that another run could take
            "nccl" if device == "cuda" else "gloo",
            store=torch.distributed.HashStore(),  # type: ignore[attr-defined]  # it is exported
            rank=0,
            world_size=1,
        )
    return torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else "cpu")


class Engine:
    """A model in training: AdamW and a schedule inside DeepSpeed (ZeRO 0-3, fp32 or bf16)."""

    def __init__(
        self,
        model: nn.Module,
        engine: EngineParams,
        *,
        lr: float,
        schedule: Schedule,
        weight_decay: float,
        max_grad_norm: float,
    ) -> None:
        self.device = prepare_process(engine)
        deepspeed = _import_deepspeed()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
        self._engine, *_ = deepspeed.initialize(
            model=model.to(self.device),
            optimizer=optimizer,
            lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, schedule),
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": max_grad_norm,
                "zero_optimization": {
                    "stage": engine.zero_stage,
                    "stage3_gather_16bit_weights_on_model_save": True,
                },
                "bf16": {"enabled": engine.dtype == "bf16"},
                "steps_per_print": 2**31,
            },
        )
        self.model: nn.Module = self._engine.module
        self.step_count = 0

    def step(self, loss: Tensor) -> dict[str, float]:
        """One update from `loss`; the metrics of the optimiser.

        Raises NonFiniteLoss before the weights are touched by a loss that is not a number, and
        after a gradient that was none.
        """
        self.step_count += 1
        if not bool(torch.isfinite(loss.detach())):
            raise NonFiniteLoss(f"step {self.step_count}: the loss is {loss.item()}")
        lr = self._engine.get_lr()[0]
        self._engine.backward(loss)
        grad_norm = self._plain_grad_norm()
        self._engine.step()
        if grad_norm is None:  # DeepSpeed's own optimisers keep the gradients, and their norm
            grad_norm = float(self._engine.get_global_grad_norm())
        if not math.isfinite(grad_norm):
            raise NonFiniteLoss(f"step {self.step_count}: the gradient's norm is {grad_norm}")
        return {"optim/lr": float(lr), "optim/grad_norm": grad_norm}

    def _plain_grad_norm(self) -> float | None:
        """The gradient's norm before clipping where the optimiser is torch's own, else None."""
        if self._engine.zero_optimization() or self._engine.bfloat16_enabled():
            return None
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads))))

    def save(self, folder: Path, fingerprint: str) -> None:
        """Write the training state after this step; the state before it is kept until then."""
        final = folder / f"step-{self.step_count:06d}"
        partial = folder / f".partial-{self.step_count:06d}"
        if _rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        self._engine.save_checkpoint(str(partial), tag="state", save_latest=False)
        if _rank() == 0:
            record = {
                "step": self.step_count,
                "fingerprint": fingerprint,
                "sha256": {str(p.relative_to(partial)): _sha256(p) for p in _files(partial)},
            }
            (partial / "record.json").write_text(json.dumps(record), encoding="utf-8")
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            for old in sorted(folder.glob("step-*"))[:-2]:
                shutil.rmtree(old)

    def resume(self, folder: Path, fingerprint: str) -> int:
        """Load the newest whole state of the same recipe; the step it was saved after, or 0."""
        for state in sorted(folder.glob("step-*"), reverse=True):
            record = json.loads((state / "record.json").read_text(encoding="utf-8"))
            whole = all(
                _sha256(state / name) == digest for name, digest in record["sha256"].items()
            )
            if whole and record["fingerprint"] == fingerprint:
                self._engine.load_checkpoint(str(state), tag="state")
                self.step_count = int(record["step"])
                return self.step_count
        return 0


def _import_deepspeed() -> Any:
    """DeepSpeed without its two-minute compilation of a shared-memory kernel we don't use."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
