"""Several sampled completions for one clip, from its features."""

from typing import Final

import torch

from r1omni import prompts
from r1omni.inference.greedy import Answered
from r1omni.model.backbone import Backbone, prefill_prompts
from r1omni.model.feature_store import Features
from r1omni.model.sampling import decode, uniform_draws

SEED: Final = 0  # of each clip's draws: what is sampled depends on nothing but the clip


@torch.no_grad()
def sample_answers(
    backbone: Backbone, features: Features, n: int, *, max_new_tokens: int, temperature: float
) -> list[Answered]:
    """`n` completions for a clip, asked in the checkpoint's own mode; the same ones each time."""
    draws = uniform_draws([torch.Generator().manual_seed(SEED)], n, max_new_tokens)
    decoded = decode(
        backbone.language_model,
        prefill_prompts(backbone, [features], [prompts.instruction(backbone.answer_mode)]),
        group_size=n,
        max_new_tokens=max_new_tokens,
        eos_token_id=backbone.eos_token_ids,
        temperature=temperature,
        draws=draws,
    )
    columns = (decoded.token_ids, decoded.logprobs, decoded.mask, decoded.finished)
    return [
        Answered(
            completion=backbone.decode(ids[mask.bool()].tolist()),
            finished=bool(finished),
            n_tokens=int(mask.sum()),
            logprob=float(logprobs.sum()),
        )
        for ids, logprobs, mask, finished in zip(*(c[0] for c in columns), strict=True)
    ]
