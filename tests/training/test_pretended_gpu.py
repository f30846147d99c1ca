"""What a GPU would run gives the CPU's numbers on a pretended one, and mixes no devices.

Attention is torch's plain one in both, since the fused kernel would be the CPU's own.
"""

from dataclasses import fields, replace
from itertools import starmap

import numpy as np
import pytest
import torch
import toy
from pretend_cuda import on_cpu, pretend_cuda
from torch.nn.attention import SDPBackend, sdpa_kernel

from r1omni import completions, prompts
from r1omni.inference.greedy import answer_batch
from r1omni.inference.probabilities import label_probabilities
from r1omni.media import TowerInputs
from r1omni.model import packed_linear
from r1omni.model.feature_store import FeatureStore
from r1omni.training.checkpoints import load_parent
from r1omni.training.engine import Engine, _Handover
from r1omni.training.examples import Example
from r1omni.training.held_out import HeldOutSet
from r1omni.training.modality_dropout import NOTHING_MISSING
from r1omni.training.reference import CopiedReference
from r1omni.training.rolling_out import Models, learn, roll_out
from r1omni.training.rollouts import SharedPrefixSampler
from r1omni.training.sft import _batch_loss
from r1omni.training.step import learn_share

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real one")

CPU = torch.device("cpu")
CLIPS = [toy.clip_at(i) for i in range(toy.CLIPS)]
SAMPLED = {"max_new_tokens": 24, "temperature": 0.3}  # of each step's groups some differ in reward


class WithoutDeepSpeed(Engine):
    """An engine that adds gradients up and never updates: DeepSpeed looks for a real device."""

    def __init__(self, model, machine):
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._machine = machine
        self._mean, self._weight, self._loss, self._bad = [], 0.0, 0.0, []
        self._n_backward = 0


@pytest.fixture
def both(monkeypatch):
    """What a function of the device gives on the CPU, and on the pretended GPU."""

    def on_both(walk):
        with sdpa_kernel(SDPBackend.MATH):
            expected = walk(CPU)
            monkeypatch.setattr(packed_linear, "LARGE", 1)  # else no weight of the toy is repacked
            with pretend_cuda() as device:
                return expected, on_cpu(walk(device))

    return on_both


@pytest.fixture
def store(world):
    return FeatureStore([world / "features"])


def moved(world, device):
    backbone = load_parent(world / "parent")
    backbone.module.to(device)
    return backbone


def moved_models(world, device, machine):
    """Policy and reference, as the stage brings them to the device."""
    policy = load_parent(world / "parent")
    reference = CopiedReference(policy)
    policy.module.to(device)
    reference.follow(policy)
    sampler = SharedPrefixSampler(policy)
    return Models(policy, reference, sampler, machine.prefix, machine.gradient_checkpointing)


def gradients(model, loss):
    """By name, of everything that is trained and takes part."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    return {n: g for n, g in zip(trained, found, strict=True) if g is not None}


def tensors_of(record):
    return [x for f in fields(record) if isinstance(x := getattr(record, f.name), torch.Tensor)]


def tower_inputs(processor):
    """Noise for two clips, the second without audio."""
    media, rng = processor.media, np.random.default_rng(0)
    pixels = (media.num_frames, 3, media.image_size, media.image_size)
    mel = (media.num_mel_bins, media.n_samples // media.hop_length)
    return [
        TowerInputs(
            rng.standard_normal(pixels, np.float32), rng.standard_normal(mel, np.float32), a
        )
        for a in (True, False)
    ]


def assert_close(found, expected, *, rtol=1e-6, atol=1e-7):
    """Equal but for the order of sums: a GPU takes other chunks."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("prefix", "kl_coef", "checkpointing"), [("reuse", 0.04, True), ("recompute", 0.0, False)]
)
def test_grpo_samples_and_learns_the_same(world, store, both, prefix, kl_coef, checkpointing):
    """Each step is compared once more as if none of its groups varied."""
    grpo = toy.grpo_params(kl_coef=kl_coef, **SAMPLED)
    machine = toy.machine_params(gradient_checkpointing=checkpointing, prefix=prefix)

    def walk(device):
        models = moved_models(world, device, machine)
        steps = []
        for step, batch in enumerate((CLIPS[:4], CLIPS[2:]), start=1):
            features = store.load([clip.clip_id for clip in batch])
            rolled = roll_out(models, features, batch, grpo, step, range(len(batch)))
            compared = learn(models, rolled, grpo)
            flat = replace(rolled, advantages=torch.zeros_like(rolled.advantages))
            losses = [compared.loss, learn(models, flat, grpo).loss]
            grads = gradients(models.policy.module, compared.loss)
            sampled = tensors_of(rolled.completions)
            media = [x for clip in rolled.prompts.media for x in clip.values()]
            there = [*rolled.prompts.tensors.values(), *media, *sampled, *losses, *grads.values()]
            assert {x.device for x in there} == {device}
            apart = ("time/", "rollout/logprob_gap")  # which is rounding and nothing else
            told = {k: v for k, v in compared.metrics.items() if not k.startswith(apart)}
            assert 0.0 <= compared.metrics["rollout/logprob_gap"] < 1e-5
            steps.append((sampled, (rolled.advantages, losses, told, grads)))
        sampled, learned = zip(*steps, strict=True)
        return sampled, learned

    (sampled, expected), (found_sampled, found) = both(walk)
    assert_close(found_sampled, sampled, rtol=0.0, atol=1e-5)  # other products (fused_decoder.py)
    assert_close(found, expected)
    vary = torch.cat([advantages.ne(0.0).any(dim=1) for advantages, *_ in expected])
    assert vary.any()
    assert not vary.all()  # some groups teach nothing
    assert sum(float(g.abs().sum()) for g in expected[-1][-1].values()) > 0.0


def test_micro_batches_learn_the_same(world, store, both):
    grpo = toy.grpo_params(**SAMPLED)
    machine = toy.machine_params(micro_batch_size=3, prefix="recompute")

    def walk(device):
        models = moved_models(world, device, machine)
        trainer = WithoutDeepSpeed(models.policy.module, machine)
        parts = learn_share(models, trainer, store, lambda _: CLIPS, grpo, 1)
        _Handover.apply(list(trainer._mean), *trainer._trained).backward()
        handed = [weight.grad for weight in trainer._trained]
        assert {x.device for x in (*trainer._mean, *handed)} == {device}
        return [part.rows for part in parts], trainer._loss, trainer._mean, handed

    (rows, *expected), (found_rows, *found) = both(walk)
    assert len(rows) == 3
    assert found_rows == rows
    assert_close(found, expected)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_sft_learns_the_same(world, store, both, checkpointing):
    questions = [prompts.instruction(mode) for mode in ("reasoned", "direct")]
    answers = [completions.render("it", "happy"), "sad"]  # padded, as the questions are
    clips = [clip.clip_id for clip in CLIPS[:2]]
    examples = list(starmap(Example, zip(clips, questions, answers, ["happy", "sad"], strict=True)))

    def walk(device):
        backbone = moved(world, device)
        loss, tokens, broken = _batch_loss(
            backbone, store.load, examples, NOTHING_MISSING, checkpointing=checkpointing
        )
        grads = gradients(backbone.module, loss)
        assert {x.device for x in (loss, *grads.values())} == {device}
        assert not broken
        return loss, tokens, grads

    expected, found = both(walk)
    assert_close(found, expected)


@pytest.mark.parametrize("mode", ["reasoned", "direct"])
def test_answers_are_the_same(world, store, both, mode):
    """Greedy, with the labels' probabilities; in the end the held-out clips."""
    spoken = [completions.render("it", "sad"), "not well formed", completions.render("", "happy")]

    def walk(device):
        backbone = moved(world, device)
        backbone.answer_mode = mode
        features = store.load([clip.clip_id for clip in CLIPS[:3]])
        answers = answer_batch(backbone, features, 24)
        chances = label_probabilities(backbone, features, spoken, toy.LABELS)
        seen = HeldOutSet(CLIPS, store, mode, 24, 1).evaluate(backbone)
        return [(a.completion, a.finished, a.n_tokens) for a in answers], [
            [a.logprob for a in answers], [c for c in chances if c is not None], seen
        ]  # fmt: skip

    (texts, expected), (found_texts, found) = both(walk)
    assert found_texts == texts
    assert_close(found, expected)


def test_the_towers_see_and_hear_the_same(world, both):
    def walk(device):
        backbone = moved(world, device)
        features = backbone.encode(tower_inputs(backbone.processor))
        encoded = [x for clip in features for x in clip.values()]
        assert {x.device for x in encoded} == {CPU}  # they go to a file
        answered = answer_batch(backbone, features, 4)
        return backbone.tower_fingerprint(), [*encoded, [a.logprob for a in answered]]

    (towers, expected), (found_towers, found) = both(walk)
    assert found_towers == towers
    assert_close(found, expected)


def test_the_forward_pass_is_the_same(world, both):
    """transformers' way: media raw, one token more with the cache, then text alone."""

    def walk(device):
        backbone = moved(world, device)
        model, processor = backbone.model, backbone.processor
        inputs = tower_inputs(processor)
        question = prompts.instruction("reasoned")
        gate_ids, gate_mask = (torch.tensor([x] * 2) for x in processor.encode_gate(question))
        out = model(
            input_ids=torch.tensor([processor.encode_prompt(question)] * 2, device=device),
            pixel_values_videos=torch.stack([torch.from_numpy(i.pixels) for i in inputs]).to(
                device
            ),
            input_features=torch.stack([torch.from_numpy(i.mel) for i in inputs]).to(device),
            gate_input_ids=gate_ids.to(device),
            gate_attention_mask=gate_mask.to(device),
            use_cache=True,
        )
        chosen = out.logits[:, -1:].argmax(dim=-1)
        after = model(input_ids=chosen, past_key_values=out.past_key_values)
        silent = model(input_ids=chosen)  # no media: the connector runs on zeros
        logits = [out.logits, after.logits, silent.logits]
        assert {x.device for x in logits} == {device}
        return logits

    expected, found = both(walk)
    assert_close(found, expected)
