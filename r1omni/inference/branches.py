"""How probable each label is behind several rationales of the same clip.

The clip's prompt runs once, every rationale once behind it, and every label behind that: the same
numbers as `label_probabilities`, which runs the prompt again for each rationale. Legend: P prompts,
G rationales each, T tokens, L labels, D width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from r1omni.completions import render
from r1omni.inference.probabilities import alternatives, padded
from r1omni.model.attention import shared_prefix_attention
from r1omni.model.backbone import Backbone, device_of
from r1omni.model.decoder_layers import run_layer
from r1omni.model.sampling import score_completions
from r1omni.model.shared_prefix import Prefix


@torch.no_grad()
def label_logprobs(
    backbone: Backbone,
    prefix: Prefix,
    rationales: Sequence[Sequence[str | None]],
    labels: Sequence[str],
) -> NDArray[np.float64]:
    """log p(label | prompt, rationale), the answer being one of the labels: (P, G, L).

    `rationales`: G for each of the prefix's P prompts. Where one is None, every label is alike. In
    the mode direct an answer has no rationale, and what is given is not read.
    """
    P, G = len(rationales), len(rationales[0])
    result = np.full((P, G, len(labels)), -np.log(len(labels)))
    reasoned = backbone.answer_mode == "reasoned"
    places = [
        (p, g)
        for p, texts in enumerate(rationales)
        for g, text in enumerate(texts)
        if not reasoned or text is not None
    ]
    if not places:
        return result
    texts = [render(rationales[p][g] or "", labels[0]) if reasoned else "" for p, g in places]
    heads, tails = zip(*(alternatives(backbone, text, labels) for text in texts), strict=True)
    device = device_of(backbone)
    chosen = prefix.select(torch.tensor([p for p, _ in places], device=device))
    if any(heads):
        chosen = continue_prefix(backbone, chosen, heads)
    token_ids, mask = padded(tails, backbone.eos_token_ids[0])
    scored, _ = score_completions(
        backbone.language_model, chosen, token_ids.to(device), mask.to(device)
    )
    rows = torch.log_softmax(scored.double().sum(dim=2), dim=1).cpu().numpy()
    for (p, g), row in zip(places, rows, strict=True):
        result[p, g] = row
    return result


@torch.no_grad()
def continue_prefix(backbone: Backbone, prefix: Prefix, begun: Sequence[Sequence[int]]) -> Prefix:
    """The prefix of P prompts whose completions have begun with these ids, at least one each."""
    model = backbone.language_model.model
    device = device_of(backbone)
    lengths = torch.tensor([len(ids) for ids in begun], device=device)
    T = int(lengths.max())
    ids = torch.tensor([[*row, *[row[-1]] * (T - len(row))] for row in begun], device=device)
    steps = torch.arange(T, device=device)
    hidden = model.embed_tokens(ids)  # (P, T, D)
    rotary = model.rotary_emb(hidden, prefix.start[:, None] + steps)
    padding = None if bool(prefix.mask.all()) else ~prefix.mask
    keys, values = [], []
    for layer, prefix_key, prefix_value in zip(
        model.layers, prefix.keys, prefix.values, strict=True
    ):
        hidden, key, value = _run(layer, hidden, rotary, prefix_key, prefix_value, padding)
        keys.append(torch.cat([prefix_key, key], dim=2))
        values.append(torch.cat([prefix_value, value], dim=2))
    last = model.norm(hidden[torch.arange(len(begun), device=device), lengths - 1])
    mask = torch.cat([prefix.mask, steps < lengths[:, None]], dim=1)
    return Prefix(keys, values, mask, prefix.start + lengths, last)


def _run(
    layer: object,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor],
    prefix_key: Tensor,
    prefix_value: Tensor,
    padding: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's output (P, T, D) for one continuation per prompt, with its keys and values."""
    kept: list[Tensor] = []

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # (P, heads, T, d) each
        kept[:] = key.contiguous(), value.contiguous()
        rows = query.transpose(1, 2)[:, None]  # (P, 1, T, H, d)
        own = (kept[0][:, :, None], kept[1][:, :, None])  # (P, K, 1, T, d)
        attended = shared_prefix_attention(rows, prefix_key, prefix_value, *own, padding)
        return attended[:, 0].view(*attended.shape[:1], attended.shape[2], query.shape[1], -1)

    return run_layer(layer, hidden, rotary, attend), kept[0], kept[1]
