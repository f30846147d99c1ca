"""Decoding and scoring completions against a prompt that was prefilled once.

One code path serves GRPO's rollouts (sampled), `predict` (greedy) and every training forward
(`score_completions`). Shapes as in shared_prefix.py.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from r1omni.model.modelling import HumanOmniForConditionalGeneration
from r1omni.model.shared_prefix import Packing, Prefix, empty_cache, extend, keep_rows


@dataclass(frozen=True)
class Decoded:
    """Completions of P prompts, G each; padded with the end token where `mask` is 0."""

    token_ids: Tensor  # (P, G, T)
    logprobs: Tensor  # (P, G, T) float32, at the sampling temperature
    mask: Tensor  # (P, G, T) 1 up to and including the end token
    finished: Tensor  # (P, G) True where the end token came in time


@torch.no_grad()
def decode(
    model: HumanOmniForConditionalGeneration,
    prefix: Prefix,
    *,
    group_size: int,
    max_new_tokens: int,
    eos_token_id: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Decoded:
    """G completions per prompt, all prompts together, until every one ended or hit the limit.

    Temperature 0 is greedy; otherwise tokens are drawn from the full softmax(logits / temperature),
    no top-k, no top-p.
    """
    prefix = prefix.detach()
    P, G, device = prefix.lengths.shape[0], group_size, prefix.last_hidden.device
    shape = (P, G, max_new_tokens)
    token_ids = torch.full(shape, eos_token_id, device=device)
    logprobs = torch.zeros(shape, device=device)
    mask = torch.zeros(shape, dtype=torch.long, device=device)
    cache = empty_cache(prefix, G, max_new_tokens)
    rows = torch.arange(G, device=device).expand(P, G)  # which completion each cache row decodes
    ended = torch.zeros(P, G, dtype=torch.bool, device=device)
    hidden = prefix.last_hidden[:, None].expand(P, G, -1)  # (P, G, D)
    for step in range(max_new_tokens):
        token, logprob = _choose(model.lm_head(hidden).float(), temperature, generator)
        token = torch.where(ended, eos_token_id, token)
        token_ids[:, :, step].scatter_(1, rows, token)
        logprobs[:, :, step].scatter_(1, rows, torch.where(ended, 0.0, logprob))
        mask[:, :, step].scatter_(1, rows, (~ended).long())
        ended = ended | (token == eos_token_id)
        longest = int((~ended).sum(dim=1).max())  # running completions of the busiest prompt
        if longest == 0 or step + 1 == max_new_tokens:
            break
        if longest <= 0.75 * rows.shape[1]:  # the finished leave the batch
            running = ended.long().argsort(dim=1, stable=True)[:, :longest]
            keep_rows(cache, running)
            rows, token, ended = (x.gather(1, running) for x in (rows, token, ended))
        embeds = model.model.embed_tokens(token)[:, :, None]  # (P, G', 1, D)
        hidden = extend(model.model, prefix, embeds, cache=cache).view(P, rows.shape[1], -1)
    length = step + 1
    mask = mask[:, :, :length]
    finished = (token_ids[:, :, :length] == eos_token_id).logical_and(mask.bool()).any(dim=2)
    return Decoded(token_ids[:, :, :length], logprobs[:, :, :length], mask, finished)


def score_completions(
    model: HumanOmniForConditionalGeneration,
    prefix: Prefix,
    token_ids: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Each completion token's log probability, and the entropy there: (P, G, T) -> 2 x (P, G, T).

    The gradient reaches the prompt through `prefix`. The head runs on completion positions only;
    masked positions are 0 in both results. Float32. The entropy carries no gradient.
    """
    keep = mask.bool()
    P, G, T = mask.shape
    hidden = prefix.last_hidden[:, None, None].expand(P, G, 1, -1)  # predicts the first token
    if T > 1:
        embeds = model.model.embed_tokens(token_ids[:, :, :-1])
        later = keep[:, :, 1:]  # a state is wanted where it predicts a wanted token
        states = Packing(later).unpack(
            extend(model.model, prefix, embeds, keep=later), (P, G, T - 1)
        )
        hidden = torch.cat([hidden, states], dim=2)  # (P, G, T, D)
    logits = model.lm_head(hidden[keep]).float() / temperature  # (M, V)
    all_logprobs = torch.log_softmax(logits, dim=-1)
    chosen = all_logprobs.gather(-1, token_ids[keep][:, None]).squeeze(-1)
    logprobs = chosen.new_zeros(mask.shape).masked_scatter(keep, chosen)
    with torch.no_grad():
        spread = -(all_logprobs.exp() * all_logprobs).sum(dim=-1)
        entropy = spread.new_zeros(mask.shape).masked_scatter(keep, spread)
    return logprobs, entropy


def _choose(
    logits: Tensor, temperature: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """The next token and its log probability: (P, G, V) -> (P, G), (P, G)."""
    logprobs = torch.log_softmax(logits / temperature if temperature else logits, dim=-1)
    if temperature:
        flat = logprobs.exp().flatten(0, 1)
        token = torch.multinomial(flat, 1, generator=generator).view(logits.shape[:2])
    else:
        token = logprobs.argmax(dim=-1)
    return token, logprobs.gather(-1, token[..., None]).squeeze(-1)
