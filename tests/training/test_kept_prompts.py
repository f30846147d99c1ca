"""The reference's kept prompts are those that a prefill makes, whatever the batch around them."""

from copy import deepcopy

import pytest
import torch

from r1omni.model.feature_store import FeatureBatch
from r1omni.model.prompting import encode_prompts, prefill_batch
from r1omni.training import kept_prompts
from r1omni.training.group_loss import Sampled, group_loss
from r1omni.training.kept_prompts import KeptPrompts

LOTS = 10**9
QUESTIONS = {"a": "why", "b": "why is the voice so loud", "c": "why", "d": "why now"}


@pytest.fixture
def asked(tiny):
    """A function from clip names to their prompts, of different lengths, one clip silent."""
    model, processor = tiny
    config = model.config

    def ask(names):
        shape = (config.num_frames, config.patch_grid**2, config.vision_config.hidden_size)
        noise = {n: torch.Generator().manual_seed(ord(n)) for n in names}
        vision = [torch.randn(*shape, generator=noise[n]) for n in names]
        sound = (config.audio_tokens, config.audio_config.d_model)
        audio = [torch.randn(*sound, generator=noise[n]) for n in names]
        heard = torch.tensor([n != "c" for n in names])
        features = FeatureBatch(torch.stack(vision), torch.stack(audio), heard)
        questions = [QUESTIONS[n] for n in names]
        return encode_prompts(processor, features, questions, torch.device("cpu"))

    return ask


@pytest.fixture
def prefilled(monkeypatch):
    """How many prompts each prefill of the module ran."""
    counts = []

    def counted(model, prompts):
        counts.append(len(prompts.input_ids))
        return prefill_batch(model, prompts)

    monkeypatch.setattr(kept_prompts, "prefill_batch", counted)
    return counts


def assert_same(found, expected):
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.lengths, expected.lengths)
    torch.testing.assert_close(found.last_hidden, expected.last_hidden, rtol=1e-4, atol=1e-5)
    own = expected.mask[:, None, :, None]
    for ours, theirs in zip(
        found.keys + found.values, expected.keys + expected.values, strict=True
    ):
        torch.testing.assert_close(ours * own, theirs * own, rtol=1e-4, atol=1e-5)
        assert ours.isfinite().all()


def test_each_clip_is_prefilled_once_and_served_in_any_batch(tiny, asked, prefilled):
    model = deepcopy(tiny[0])
    kept = KeptPrompts(model, LOTS)
    for names in ("ab", "bca", "d", "cdab"):
        with torch.no_grad():
            expected = prefill_batch(model, asked(names))
        assert_same(kept.prefix(asked(names), list(names)), expected)
    assert prefilled == [2, 1, 1]  # a and b, then c, then d; at last none
    assert len(kept) == 4


def test_what_does_not_fit_is_made_again(tiny, asked, prefilled):
    model = tiny[0]
    whole = KeptPrompts(model, LOTS)
    whole.prefix(asked("ab"), ["a", "b"])
    kept = KeptPrompts(model, whole._n_bytes - 1)
    for _ in range(2):
        with torch.no_grad():
            expected = prefill_batch(model, asked("ab"))
        assert_same(kept.prefix(asked("ab"), ["a", "b"]), expected)
    assert len(kept) == 1
    assert prefilled == [2, 2, 1]
    nothing = KeptPrompts(model, 0)
    nothing.prefix(asked("a"), ["a"])
    assert len(nothing) == 0


@pytest.mark.parametrize("kl_coef", [0.0, 0.04])
def test_the_loss_of_a_second_epoch_is_the_same(tiny, asked, kl_coef):
    model = deepcopy(tiny[0])
    reference = deepcopy(model)
    with torch.no_grad():
        for p in reference.parameters():
            p.mul_(1.01)
    prompts = asked("abd")
    ids = torch.randint(3, 200, (3, 2, 5), generator=torch.Generator().manual_seed(1))
    advantages = torch.tensor([[1.0, -1.0], [0.0, 0.0], [0.5, -0.5]])  # b teaches nothing
    kept = KeptPrompts(reference, LOTS)

    def loss(cache):
        prefix = prefill_batch(model, prompts)
        sampled = Sampled(prompts, prefix, ids, torch.ones_like(ids), advantages, ["a", "b", "d"])
        found = group_loss(model, reference, sampled, temperature=1.0, kl_coef=kl_coef, kept=cache)
        return float(found.loss.detach()), found.metrics["train/kl"]

    expected = loss(None)
    assert loss(kept) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert len(kept) == (3 if kl_coef else 2)
    assert loss(kept) == pytest.approx(expected, rel=1e-5, abs=1e-7)
