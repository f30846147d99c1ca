"""How probable each label is as the answer, the rationale being what the model wrote itself."""

from collections.abc import Sequence

import torch
from torch import Tensor

from r1omni import prompts
from r1omni.completions import parse
from r1omni.model.backbone import Backbone, prefill_asked
from r1omni.model.feature_store import Features
from r1omni.model.sampling import score_completions

_ANSWER = "<answer>"


@torch.no_grad()
def label_probabilities(
    backbone: Backbone,
    features: Sequence[Features],
    completions: Sequence[str],
    labels: Sequence[str],
) -> list[dict[str, float] | None]:
    """For each clip the probability of every label, given that the answer is one of them.

    The completion's text up to its answer is kept and each label's word is put in the answer's
    place: p(label) = exp(l) / sum of exp(l) over `labels`, l the log probability of that completion
    at temperature 1. None where a reasoned completion is not well formed: it has no such place.
    """
    reasoned = backbone.answer_mode == "reasoned"
    rows = [i for i, text in enumerate(completions) if not reasoned or parse(text) is not None]
    result: list[dict[str, float] | None] = [None] * len(completions)
    if not rows:
        return result
    heads, tails = zip(
        *(alternatives(backbone, completions[i] if reasoned else "", labels) for i in rows),
        strict=True,
    )
    questions = [prompts.instruction(backbone.answer_mode)] * len(rows)
    prefix = prefill_asked(backbone, backbone.ask([features[i] for i in rows], questions, heads))
    token_ids, mask = padded(tails, backbone.eos_token_ids[0])
    device = prefix.last_hidden.device
    logprobs, _ = score_completions(
        backbone.language_model, prefix, token_ids.to(device), mask.to(device)
    )
    probabilities = torch.softmax(logprobs.double().sum(dim=2), dim=1)  # (P, G)
    for i, row in zip(rows, probabilities.tolist(), strict=True):
        result[i] = dict(zip(labels, row, strict=True))
    return result


def alternatives(
    backbone: Backbone, completion: str, labels: Sequence[str]
) -> tuple[list[int], list[list[int]]]:
    """The ids that the completions with each label share, and how each goes on from there.

    Encoded whole, as in training: a tokenizer may join a tag's end with the first letters.
    """
    before, tag, _ = completion.partition(_ANSWER)
    closing = "</answer>" if tag else ""
    encoded = [backbone.encode_completion(f"{before}{tag}{word}{closing}") for word in labels]
    shared = 0
    while len({tuple(ids[: shared + 1]) for ids in encoded}) == 1 < len(encoded):
        shared += 1
    return encoded[0][:shared], [ids[shared:] for ids in encoded]


def padded(tails: Sequence[Sequence[Sequence[int]]], end: int) -> tuple[Tensor, Tensor]:
    """Token ids and mask of P x G continuations: (P, G, T), (P, G, T)."""
    longest = max(len(ids) for group in tails for ids in group)
    ids = [[[*row, *[end] * (longest - len(row))] for row in group] for group in tails]
    mask = [[[1] * len(row) + [0] * (longest - len(row)) for row in group] for group in tails]
    return torch.tensor(ids), torch.tensor(mask)
