"""Decoding on a GPU: the host looks at what was decoded once in 16 tokens.

Between two looks no operation waits for the device, so that the host queues kernels ahead of it.
Shapes as in shared_prefix.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from r1omni.model.choosing import CROWDED, choose_tokens
from r1omni.model.fused_decoder import FusedDecoder
from r1omni.model.shared_prefix import Prefix

# Tokens between two looks: a look drains the queue of kernels, about as long as a token takes, and
# a batch whose last completion ended decodes half of them in vain. At 16 both are a few percent of
# the 100 to 200 tokens of a completion.
WINDOW = 16


def decode_in_windows(
    model: Any,
    prefix: Prefix,
    *,
    group_size: int,
    max_new_tokens: int,
    end_ids: Sequence[int],
    temperature: float,
    draws: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """G completions per prompt as `decode` gives them: ids, logprobs, mask, finished.

    For no_grad, a prefix that is detached, and a decoder that `can_fuse`. A completion that ended
    goes on until the next look; what it decodes then is padding in the result.
    """
    P, device = prefix.start.shape[0], prefix.last_hidden.device
    shape = (P, group_size, max_new_tokens)
    ends = torch.tensor(end_ids, device=device)
    token_ids = torch.full(shape, end_ids[0], device=device)
    logprobs = torch.zeros(shape, device=device)
    decoder = FusedDecoder(model.model, prefix, group_size, max_new_tokens)
    # which completion (prompt, row) each of the batch's (P', G') places decodes
    prompts = torch.arange(P, device=device)[:, None]
    rows = torch.arange(group_size, device=device).expand(P, group_size)
    ended = torch.zeros(P, group_size, dtype=torch.bool, device=device)
    draws = None if draws is None else draws.to(device).permute(2, 0, 1).contiguous()  # (T, P, G)
    hidden = prefix.last_hidden[:, None].expand(P, group_size, -1)  # (P', G', D)
    for first in range(0, max_new_tokens, WINDOW):
        last = min(first + WINDOW, max_new_tokens)
        found = []
        for step in range(first, last):
            draw = None if draws is None else draws[step]
            token, logprob = choose_tokens(model.lm_head(hidden).float(), temperature, draw)
            found.append((token, logprob))
            if step + 1 < last:
                hidden = decoder.step(token)
        tokens, chosen = (torch.stack(x, dim=2) for x in zip(*found, strict=True))  # (P', G', t)
        token_ids[prompts, rows, first:last] = tokens
        logprobs[prompts, rows, first:last] = chosen
        ended = ended | torch.isin(tokens, ends).any(dim=2)
        if last == max_new_tokens:
            break
        n_busy, longest = _count_running(ended)
        if n_busy == 0:
            break
        if longest * n_busy <= CROWDED * ended.numel():
            busy, running = _places(ended, n_busy, longest)
            decoder.keep(busy, running)
            prompts = prompts[busy]
            rows, token, ended = (x[busy].gather(1, running) for x in (rows, token, ended))
            if draws is not None:
                draws = draws[:, busy].gather(2, running.expand(len(draws), *running.shape))
        hidden = decoder.step(token)
    return _cut_at_ends(token_ids, logprobs, ends, end_ids[0])


def _count_running(ended: Tensor) -> tuple[int, int]:
    """How many prompts decode something, and how many completions the busiest: the host's look."""
    running = (~ended).sum(dim=1)  # (P',)
    n_busy, longest = torch.stack([(running > 0).sum(), running.max()]).tolist()
    return n_busy, longest


def _places(ended: Tensor, n_busy: int, longest: int) -> tuple[Tensor, Tensor]:
    """The prompts (P',) and of each the completions (P', G') to go on with, in their order."""
    busy = ended.all(dim=1).long().argsort(stable=True)[:n_busy]
    return busy, ended[busy].long().argsort(dim=1, stable=True)[:, :longest]


def _cut_at_ends(
    token_ids: Tensor, logprobs: Tensor, ends: Tensor, pad: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Padding behind each first end token, as short as the longest completion."""
    is_end = torch.isin(token_ids, ends)
    counted = is_end.cumsum(dim=2) - is_end.long() == 0  # no end before
    length = int(counted.sum(dim=2).max())
    mask, is_end = counted[:, :, :length], is_end[:, :, :length]
    token_ids = token_ids[:, :, :length].where(mask, pad)
    logprobs = logprobs[:, :, :length].where(mask, 0.0)
    return token_ids, logprobs, mask.long(), (is_end & mask).any(dim=2)
