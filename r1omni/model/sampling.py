"""Decoding and scoring completions against a prompt that was prefilled once.

One code path serves GRPO's rollouts (sampled), `predict` (greedy) and every training forward
(`score_completions`). Shapes as in shared_prefix.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from r1omni.model.backbone import LanguageModel
from r1omni.model.choosing import CROWDED, choose_tokens
from r1omni.model.completion_cache import CompletionCache
from r1omni.model.fused_weights import can_fuse
from r1omni.model.packed_linear import packed_linears
from r1omni.model.shared_prefix import Packing, Prefix, extend
from r1omni.model.windows import decode_in_windows


@dataclass(frozen=True)
class Decoded:
    """Completions of P prompts, G each; padded with an end token where `mask` is 0."""

    token_ids: Tensor  # (P, G, T)
    logprobs: Tensor  # (P, G, T) float32, at the sampling temperature
    mask: Tensor  # (P, G, T) 1 up to and including the first end token
    finished: Tensor  # (P, G) True where an end token came in time

    def select(self, prompts: Tensor) -> "Decoded":
        """Those of some prompts, by their index (P',), as short as their longest completion."""
        length = int(self.mask[prompts].sum(dim=2).max())
        ids, logprobs, mask = (
            x[prompts, :, :length] for x in (self.token_ids, self.logprobs, self.mask)
        )
        return Decoded(ids, logprobs, mask, self.finished[prompts])


def uniform_draws(generators: Sequence[torch.Generator], group_size: int, length: int) -> Tensor:
    """What sampling is decided by: (P, G, T) in [0, 1), float64, from one generator per prompt.

    Each token has its own number, so what a completion becomes depends neither on which other
    prompts are in its batch nor on which rows have left it.
    """
    return torch.stack(
        [
            torch.rand(group_size, length, generator=generator, dtype=torch.float64)
            for generator in generators
        ]
    )


@torch.no_grad()
def decode(
    model: LanguageModel,
    prefix: Prefix,
    *,
    group_size: int,
    max_new_tokens: int,
    eos_token_id: int | Sequence[int],
    temperature: float = 0.0,
    draws: Tensor | None = None,
) -> Decoded:
    """G completions per prompt, all prompts together, until every one ended or hit the limit.

    A completion ends at the first of `eos_token_id`; padding is the first one that is named.
    Temperature 0 is greedy; otherwise tokens are drawn from the full softmax(logits / temperature),
    no top-k, no top-p, by `draws` (P, G, max_new_tokens) of `uniform_draws`.

    A GPU decodes in few kernels (windows.py), unless an adapter is on the decoder.
    """
    prefix = prefix.detach()
    end_ids = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)
    on_gpu = prefix.last_hidden.device.type == "cuda"
    run = decode_in_windows if on_gpu and can_fuse(model.model) else _decode_step_by_step
    return Decoded(
        *run(
            model,
            prefix,
            group_size=group_size,
            max_new_tokens=max_new_tokens,
            end_ids=end_ids,
            temperature=temperature,
            draws=draws,
        )
    )


def _decode_step_by_step(
    model: LanguageModel,
    prefix: Prefix,
    *,
    group_size: int,
    max_new_tokens: int,
    end_ids: Sequence[int],
    temperature: float,
    draws: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of `Decoded`; what has ended leaves the batch at once."""
    P, G, device = prefix.start.shape[0], group_size, prefix.last_hidden.device
    shape = (P, G, max_new_tokens)
    pad, ends = end_ids[0], torch.tensor(end_ids, device=device)
    token_ids = torch.full(shape, pad, device=device)
    logprobs = torch.zeros(shape, device=device)
    mask = torch.zeros(shape, dtype=torch.long, device=device)
    cache = CompletionCache(model.model, prefix, G, max_new_tokens)
    # which completion (prompt, row) each of the batch's (P', G') places decodes
    prompts = torch.arange(P, device=device)[:, None]
    rows = torch.arange(G, device=device).expand(P, G)
    ended = torch.zeros(P, G, dtype=torch.bool, device=device)
    draws = None if draws is None else draws.to(device)
    hidden = prefix.last_hidden[:, None].expand(P, G, -1)  # (P', G', D)
    with packed_linears([*model.model.layers, model.lm_head], P * G):
        for step in range(max_new_tokens):
            draw = None if draws is None else draws[prompts, rows, step]
            token, logprob = choose_tokens(model.lm_head(hidden).float(), temperature, draw)
            token = torch.where(ended, pad, token)
            token_ids[prompts, rows, step] = token
            logprobs[prompts, rows, step] = torch.where(ended, 0.0, logprob)
            mask[prompts, rows, step] = (~ended).long()
            ended = ended | torch.isin(token, ends)
            if step + 1 == max_new_tokens or bool(ended.all()):
                break
            places = _still_running(ended)
            if places is not None:
                busy, running = places
                cache.keep(busy, running)
                prompts = prompts[busy]
                rows, token, ended = (x[busy].gather(1, running) for x in (rows, token, ended))
            hidden = cache.step(model.model.embed_tokens(token))
    length = step + 1
    mask = mask[:, :, :length]
    finished = torch.isin(token_ids[:, :, :length], ends).logical_and(mask.bool()).any(dim=2)
    return token_ids[:, :, :length], logprobs[:, :, :length], mask, finished


def score_completions(
    model: LanguageModel,
    prefix: Prefix,
    token_ids: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    checkpointing: bool = False,
) -> tuple[Tensor, Tensor]:
    """Each completion token's log probability, and the entropy there: (P, G, T) -> 2 x (P, G, T).

    The gradient reaches the prompt through `prefix`. The head runs on completion positions only,
    some at a time; masked positions are 0 in both results. Float32. The entropy carries no
    gradient. With `checkpointing` the backward pass makes the layers' inner states again.
    """
    keep = mask.bool()
    P, G, T = mask.shape
    hidden = prefix.last_hidden[:, None, None].expand(P, G, 1, -1)  # predicts the first token
    if T > 1:
        embeds = model.model.embed_tokens(token_ids[:, :, :-1])
        later = keep[:, :, 1:]  # a state is wanted where it predicts a wanted token
        states = extend(model.model, prefix, embeds, later, checkpointing=checkpointing)
        hidden = torch.cat([hidden, Packing(later).unpack(states, (P, G, T - 1))], dim=2)
    chosen, spread = model.lm_head(hidden[keep], token_ids[keep], temperature)  # (M,), (M,)
    logprobs = chosen.new_zeros(mask.shape).masked_scatter(keep, chosen)
    entropy = spread.new_zeros(mask.shape).masked_scatter(keep, spread)
    return logprobs, entropy


def _still_running(ended: Tensor) -> tuple[Tensor, Tensor] | None:
    """The prompts (P',) and their completions (P', G') to go on with, or None for all as they are.

    A prompt of which every completion ended leaves; the others keep as many rows as the busiest
    has running.
    """
    running_each = (~ended).sum(dim=1)  # (P',)
    busy = running_each > 0
    longest, n_busy = int(running_each.max()), int(busy.sum())
    if longest * n_busy > CROWDED * ended.numel():
        return None
    kept = busy.nonzero().squeeze(1)
    return kept, ended[kept].long().argsort(dim=1, stable=True)[:, :longest]
