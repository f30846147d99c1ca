"""Splicing against a plain loop over rows, in value and gradient."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from r1omni.model.humanomni.splicing import splice

VIDEO, AUDIO, WIDTH = -201, -202, 2


def splice_slowly(ids: list[list[int]], text: Tensor, media: dict[int, Tensor]) -> list[Tensor]:
    """The expanded rows without padding; `ids` are without it too."""
    rows = []
    for row, line in enumerate(ids):
        padding = text.shape[1] - len(line)
        pieces = [
            media[i][row] if i in media else text[row, padding + column][None]
            for column, i in enumerate(line)
        ]
        rows.append(torch.cat(pieces))
    return rows


words = st.lists(st.integers(0, 9), min_size=1, max_size=5)


@st.composite
def prompts(draw: st.DrawFn) -> list[int]:
    ids = draw(words)
    for sentinel in (VIDEO, AUDIO):
        if draw(st.booleans()):
            ids.insert(draw(st.integers(0, len(ids))), sentinel)
    return ids


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(prompts(), min_size=1, max_size=4), n_video=st.integers(1, 3))
def test_splicing_equals_a_loop_over_rows(ids: list[list[int]], n_video: int) -> None:
    B, L = len(ids), max(map(len, ids))
    padded = torch.tensor([[0] * (L - len(line)) + line for line in ids])
    mask = torch.tensor([[False] * (L - len(line)) + [True] * len(line) for line in ids])
    text = torch.randn(B, L, WIDTH, requires_grad=True)
    media = {
        VIDEO: torch.randn(B, n_video, WIDTH, requires_grad=True),
        AUDIO: torch.randn(B, 2, WIDTH, requires_grad=True),
    }
    leaves = [text, *media.values()]

    embeds, expanded = splice(padded, mask, text, media)
    rows = splice_slowly(ids, text, media)
    longest = max(map(len, rows))
    assert embeds.shape == (B, longest, WIDTH)
    for row, expected in enumerate(rows):
        start = longest - len(expected)
        assert torch.equal(embeds[row, start:], expected)
        assert not embeds[row, :start].any()
        assert expanded[row].tolist() == [False] * start + [True] * len(expected)

    weights = torch.randn(longest, WIDTH)
    fast = torch.autograd.grad((embeds * weights).sum(), leaves)
    slow_sum = sum((row * weights[-len(row) :]).sum() for row in rows)
    slow = torch.autograd.grad(slow_sum, leaves, allow_unused=True)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


def test_splicing_by_hand() -> None:
    ids = torch.tensor([[7, VIDEO, 8], [0, 9, VIDEO]])
    mask = torch.tensor([[True, True, True], [False, True, True]])
    text = torch.tensor([[[1.0], [0.0], [2.0]], [[5.0], [3.0], [0.0]]])
    video = torch.tensor([[[10.0], [11.0]], [[20.0], [21.0]]])
    embeds, expanded = splice(ids, mask, text, {VIDEO: video})
    assert embeds[..., 0].tolist() == [[1.0, 10.0, 11.0, 2.0], [0.0, 3.0, 20.0, 21.0]]
    assert expanded.tolist() == [[True] * 4, [False, True, True, True]]
