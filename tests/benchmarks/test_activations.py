"""Bytes kept for the backward pass, counted by hand."""

import torch
from torch import nn

from benchmarks.activations import Counter, Saved, extrapolated, render, saved


def test_each_storage_counts_once_and_weights_do_not():
    """A linear layer keeps its input (3 x 4 floats), relu its output (3 x 5)."""
    layer, x = nn.Linear(4, 5), torch.randn(3, 4)
    counter = Counter(layer)
    with torch.autograd.graph.saved_tensors_hooks(counter.keep, lambda tensor: tensor):
        y = layer(x).relu()
        assert counter.bytes == 4 * (3 * 4 + 3 * 5)
        layer(x).sum()  # the same input again
        assert counter.bytes == 4 * (3 * 4 + 3 * 5)
    y.sum().backward()


def test_layers_beyond_those_counted_are_added_by_their_difference():
    assert extrapolated(Saved(10.0, 5.0), Saved(14.0, 5.5), 24) == Saved(54.0, 10.5)


def test_checkpointing_keeps_less_of_the_same_passes(small_config):
    all_kept, less = (
        saved(small_config, checkpointing=checkpointing, prompt=23, group=3, new=4)
        for checkpointing in (False, True)
    )
    assert 0 < less.prompt < all_kept.prompt
    assert 0 < less.completions < all_kept.completions


def test_the_table_by_hand():
    """950 positions of 1 MB and 1,200 tokens of 2 MB; 4 clips at once in params/paper.yaml."""
    text = render({False: Saved(950e6, 2400e6)})
    long = 4 * (0.95 + 2.4 * 512 / 150)
    assert f"| false | 1.00 | 2.00 | 3.35 | 13.4 | {long:.1f} |" in text
