"""One greedy completion for each of several clips, from their features."""

from dataclasses import dataclass

import torch

from r1omni import prompts
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.feature_store import FeatureBatch
from r1omni.model.prompting import prefill_prompts
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
    model: HumanOmniForConditionalGeneration,
    processor: HumanOmniProcessor,
    features: FeatureBatch,
    max_new_tokens: int,
) -> list[Answered]:
    """The greedy completion for each clip, asked in the checkpoint's own mode."""
    question = prompts.instruction(model.config.answer_mode)
    decoded = decode(
        model,
        prefill_prompts(model, processor, features, [question] * len(features.vision)),
        group_size=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=processor.eos_token_ids,
    )
    columns = (decoded.token_ids, decoded.logprobs, decoded.mask, decoded.finished)
    return [
        Answered(
            completion=processor.decode(ids[mask.bool()].tolist()),
            finished=bool(finished),
            n_tokens=int(mask.sum()),
            logprob=float(logprobs.sum()),
        )
        for ids, logprobs, mask, finished in zip(*(c[:, 0] for c in columns), strict=True)
    ]
