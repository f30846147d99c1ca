"""The next token from its logits. Shapes: `P` prompts, `G` completions each, `V` vocabulary."""

import torch
from torch import Tensor

CROWDED = 0.75  # of the rows decode something: below, the finished leave the batch


def choose_tokens(logits: Tensor, temperature: float, draw: Tensor | None) -> tuple[Tensor, Tensor]:
    """The next token and its log probability: (P, G, V), (P, G) -> (P, G), (P, G).

    Temperature 0 takes the most probable one, and `draw` is None.
    """
    logprobs = torch.log_softmax(logits / temperature if temperature else logits, dim=-1)
    if temperature:
        assert draw is not None, "sampling needs draws"
        # Float64: in float32 the running sum would swallow the tail of a large vocabulary.
        below = logprobs.exp().cumsum(dim=-1, dtype=torch.float64)  # (P, G, V)
        at = draw[..., None] * below[..., -1:]
        token = (
            torch.searchsorted(below, at, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)
        )
    else:
        token = logprobs.argmax(dim=-1)
    return token, logprobs.gather(-1, token[..., None]).squeeze(-1)
