"""Sentinels in a prompt replaced by the tokens of what they stand for."""

from collections.abc import Mapping

import torch
from torch import Tensor


def splice(
    input_ids: Tensor, mask: Tensor, text: Tensor, media: Mapping[int, Tensor]
) -> tuple[Tensor, Tensor]:
    """Left-padded embeddings of the expanded prompts, and where they are not padding.

    `input_ids` and `mask` (bool) are (B, L), `text` (B, L, D) holds the embedding of every id,
    `media` maps a sentinel to its tokens (B, T, D). Gives (B, L', D), zero on padding, and (B, L').

    Raises ValueError for a negative id that is no sentinel of `media`, and for one twice in a row.
    """
    B, L = input_ids.shape
    lengths = mask.long()  # how many positions each id becomes
    columns = torch.arange(L, device=text.device).expand(B, L)  # where its first one is found below
    known = (input_ids >= 0) | ~mask
    sources, width = [text], L
    for sentinel, tokens in media.items():
        here = mask & (input_ids == sentinel)  # (B, L)
        if bool((here.sum(dim=1) > 1).any()):
            raise ValueError(f"sentinel {sentinel} stands more than once in one row of input_ids")
        lengths = torch.where(here, tokens.shape[1], lengths)
        columns = torch.where(here, width, columns)
        known = known | here
        sources.append(tokens)
        width += tokens.shape[1]
    if not bool(known.all()):
        row, column = (~known).nonzero()[0].tolist()
        raise ValueError(
            f"input_ids[{row}, {column}] is {int(input_ids[row, column])}, a sentinel for which no "
            f"features were given; given: {sorted(media) or 'none'}"
        )
    totals = lengths.sum(dim=1)  # (B,)
    longest = int(totals.max())
    expanded = torch.arange(longest, device=text.device) >= (longest - totals)[:, None]  # (B, L')
    repeats = lengths.flatten()
    firsts = (
        columns.flatten()
        - (repeats.cumsum(0) - repeats)
        + torch.arange(B, device=text.device).repeat_interleave(L) * width
    )
    places = torch.arange(int(repeats.sum()), device=text.device)
    places = places + firsts.repeat_interleave(repeats)  # rows of `rows`, in reading order
    index = places.new_zeros(B, longest).masked_scatter(expanded, places)
    rows = torch.cat(sources, dim=1).flatten(0, 1)  # (B * width, D)
    return rows[index].masked_fill(~expanded[..., None], 0.0), expanded
