"""One greedy completion for each of several clips, from their features."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from r1omni import prompts
from r1omni.model.backbone import Backbone, prefill_prompts
from r1omni.model.feature_store import Features
from r1omni.model.sampling import decode


@dataclass(frozen=True)
class Answered:
    """One greedy completion, with the sum of its tokens' log probabilities."""

    completion: str
    finished: bool
    n_tokens: int
    logprob: float


@torch.no_grad()
def answer_batch(
    backbone: Backbone,
    features: Sequence[Features],
    max_new_tokens: int,
) -> list[Answered]:
    """The greedy completion for each clip, asked in the checkpoint's own mode."""
    question = prompts.instruction(backbone.answer_mode)
    decoded = decode(
        backbone.language_model,
        prefill_prompts(backbone, features, [question] * len(features)),
        group_size=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=backbone.eos_token_ids,
    )
    columns = (decoded.token_ids, decoded.logprobs, decoded.mask, decoded.finished)
    return [
        Answered(
            completion=backbone.decode(ids[mask.bool()].tolist()),
            finished=bool(finished),
            n_tokens=int(mask.sum()),
            logprob=float(logprobs.sum()),
        )
        for ids, logprobs, mask, finished in zip(*(c[:, 0] for c in columns), strict=True)
    ]
