"""Padded prompts, bfloat16, losses that are no number: a pretended GPU does as the CPU does."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import fields

import pytest
import torch
import toy
from noise import noise_features
from pretend_cuda import on_cpu, pretend_cuda
from torch.nn.attention import SDPBackend, sdpa_kernel

from r1omni import completions, prompts
from r1omni.base_model.humanomni import build_untrained
from r1omni.model import windows
from r1omni.model.backbone import prefill_asked
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.model.sampling import Decoded, decode, score_completions
from r1omni.training.group_loss import group_loss
from r1omni.training.rollouts import Rollouts

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one")

CPU = torch.device("cpu")
ASKED = ["short", prompts.instruction("reasoned"), "the voice"]  # left padding
SEED, ROOM, END = 3, 12, 5
EVEN = 1e6  # the temperature at which all tokens are equally likely


@pytest.fixture(scope="module")
def untrained():
    """A random backbone of the toy's size, and noise for three clips."""
    params = toy.toy_params()
    torch.manual_seed(SEED)
    texts = [completions.render("the voice is loud", label) for label in toy.LABELS]
    backbone = build_untrained(texts, texts, model=params.model, media=params.media)
    backbone.freeze()
    return backbone, noise_features(backbone.model.config, 3)


@pytest.fixture
def asked(untrained):
    """A copy of the model on a device, and the three prompts there."""

    def bring(device, dtype=torch.float32):
        backbone, features = untrained
        moved = HumanOmniBackbone(deepcopy(backbone.model).to(device, dtype), backbone.processor)
        batch = moved.ask(features, ASKED)
        assert not bool(batch.tensors["attention_mask"].all())
        return moved, batch

    return bring


def on_both(walk):
    """What a function of the device gives on the CPU, and on the pretended GPU.

    Attention is torch's plain one in both, since the fused kernel would be the CPU's own.
    """
    with sdpa_kernel(SDPBackend.MATH):
        expected = walk(CPU)
        with pretend_cuda() as device:
            return expected, on_cpu(walk(device))


def draws_that_end(lengths, end, vocabulary):
    """What makes completions so long where all tokens are equally likely: (P, G) -> (P, G, T)."""
    tokens = torch.randint(end + 1, vocabulary, (*lengths.shape, ROOM))
    last = torch.arange(ROOM) == lengths[..., None] - 1
    return (tokens.masked_fill(last, end).double() + 0.5) / vocabulary


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_prompts_are_decoded_and_scored_the_same(untrained, asked, dtype, monkeypatch):
    """Rows leave the batch as they end, and a prompt's all before the others'."""
    monkeypatch.setattr(windows, "WINDOW", 3)
    lengths = torch.tensor([[1, 2, 1, 2], [3, 9, 5, 11], [12, 4, 11, 10]])
    torch.manual_seed(SEED)
    draws = draws_that_end(lengths, END, untrained[0].model.lm_head.out_features)

    def walk(device):
        backbone, batch = asked(device, dtype)
        model, prefix = backbone.model, prefill_asked(backbone, batch)
        decoded = [
            decode(model, prefix, eos_token_id=END, group_size=n, max_new_tokens=ROOM, **how)
            for n, how in ((1, {}), (4, {"temperature": EVEN, "draws": draws}))
        ]
        ids, mask = decoded[1].token_ids, decoded[1].mask
        scored = score_completions(model, prefix, ids, mask, temperature=0.5)
        trained = [p for p in model.parameters() if p.requires_grad]
        grads = torch.autograd.grad(scored[0].sum(), trained)
        told = [getattr(one, f.name) for one in decoded for f in fields(one)]
        assert {x.device for x in (*prefix.keys, *told, *scored, *grads)} == {device}
        return mask, told, (scored, grads)

    expected, found = on_both(walk)
    assert expected[0].sum(dim=2).tolist() == lengths.tolist()
    # a GPU decodes by other products (fused_decoder.py), each of them rounded
    decoded = {"rtol": 0.0, "atol": 1e-5 if dtype == torch.float32 else 1e-3}
    torch.testing.assert_close(found[:2], expected[:2], **decoded)
    torch.testing.assert_close(found[2], expected[2])


@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_a_group_without_a_number_for_its_loss_is_named_the_same(asked, kl_coef):
    advantages = torch.tensor([[1.0, -1.0], [0.0, 0.0], [torch.nan, 1.0]])

    def walk(device):
        backbone, batch = asked(device)
        ids = torch.arange(3, 33, device=device).view(3, 2, 5)
        certain = torch.zeros(ids.shape, device=device)
        sampled = Decoded(ids, certain, torch.ones_like(ids), torch.zeros_like(ids[..., 0]).bool())
        prefix = prefill_asked(backbone, batch)
        rollouts = Rollouts(batch, prefix, sampled, advantages.to(device))
        reference = nullcontext(backbone)
        found = group_loss(backbone, reference, rollouts, temperature=1.0, kl_coef=kl_coef)
        assert found.loss.device == device
        return found.broken

    assert on_both(walk) == ([2], [2])
