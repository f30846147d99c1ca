"""The fast GRPO step against the textbook's: loss, KL, logprobs and every gradient."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from noise import as_features
from torch import Tensor
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from benchmarks import textbook
from benchmarks.workload import as_backbone, make_clip
from r1omni.model import HumanOmniForConditionalGeneration, attention, head
from r1omni.model.backbone import PromptBatch, prefill_asked
from r1omni.model.sampling import Decoded, decode, score_completions, uniform_draws
from r1omni.training.group_loss import group_loss
from r1omni.training.losses import group_advantages
from r1omni.training.rollouts import Rollouts

END = 1  # the end token
# How far from the truth the fast path may be in bfloat16, as a multiple of the textbook's distance.
# Many roundings make the gradient's, which hardly varies; a handful of losses has a chance one.
NO_FURTHER = {"loss": 2.0, "logprobs": 1.5, "gradients": 1.25, "decoded": 1.5}
KEY_BIAS = 100.0  # of either sign: about what Qwen2's key biases are


@dataclass(frozen=True)
class Outcome:
    """What one of the two ways makes of a batch of groups."""

    loss: float
    kl: float
    logprobs: Tensor  # (P, G, T), 0 behind the end token
    ref_logprobs: Tensor
    gradients: dict[str, Tensor]  # by parameter name


class ExactNorm(Qwen2RMSNorm):
    """Qwen2's norm without its cast to float32, so that float64 can be compared tightly."""

    def forward(self, hidden):
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * (hidden * torch.rsqrt(variance + self.variance_epsilon))


@pytest.fixture(scope="module")
def models(small_config):
    """A policy and a reference that differs from it, in float64."""
    torch.manual_seed(0)
    policy = HumanOmniForConditionalGeneration(small_config).double().eval()
    for module in policy.modules():
        if isinstance(module, Qwen2RMSNorm):
            module.__class__ = ExactNorm
    with torch.no_grad():  # away from an almost linear network
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for tower in (policy.model.vision_tower, policy.model.audio_tower):
        tower.requires_grad_(False)
    reference = deepcopy(policy).requires_grad_(False)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if "_tower." not in name:  # the towers are the same in both
                parameter.add_(0.05 * torch.randn_like(parameter))
    return policy, reference


def clips_of(policy, text_lengths, without_audio):
    """One clip per text length; some prompts have no audio sentinel (and no audio)."""
    clips = []
    for seed, length in enumerate(text_lengths):
        clip = make_clip(policy.config, seed, length)
        ids, mel = clip.input_ids, clip.mel.to(policy.dtype)
        if seed in without_audio:
            ids, mel = ids[ids != policy.config.audio_token_id][None], None
        clips.append(textbook.Prompt(ids, clip.gate_input_ids, clip.pixels.to(policy.dtype), mel))
    return clips


def as_batch(policy, clips):
    """The same clips as the fast path gets them: cached features, ids left-padded."""
    length = max(clip.input_ids.shape[1] for clip in clips)
    ids = torch.zeros(len(clips), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, clip in enumerate(clips):
        ids[row, length - clip.input_ids.shape[1] :] = clip.input_ids[0]
        mask[row, length - clip.input_ids.shape[1] :] = 1
    silent = torch.zeros(1, policy.config.audio_tokens, policy.config.audio_config.d_model)
    with torch.no_grad():
        vision = torch.cat([policy.encode_vision(clip.pixels) for clip in clips])
        audio = torch.cat(
            [
                silent.to(policy.dtype) if c.mel is None else policy.encode_audio(c.mel)
                for c in clips
            ]
        )
    gates = torch.cat([clip.gate_input_ids for clip in clips])
    tensors = {
        "input_ids": ids,
        "attention_mask": mask,
        "gate_input_ids": gates,
        "gate_attention_mask": torch.ones_like(gates),
    }
    return PromptBatch(tensors, tuple(as_features(vision, audio)))


def sampled(ids, mask, logprobs):
    """What a sampler would return of these completions."""
    return Decoded(ids, logprobs, mask, torch.ones(ids.shape[:2], dtype=torch.bool))


def rollouts_of(P, G, T, seed):
    """Random completions that end anywhere, and rewards that vary in most groups."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 40, (P, G, T), generator=generator)
    lengths = torch.randint(1, T + 1, (P, G), generator=generator)
    at = torch.arange(T)
    ids = torch.where(at == lengths[..., None] - 1, END, ids)
    mask = (at < lengths[..., None]).long()
    rewards = torch.randint(0, 3, (P, G), generator=generator).double()
    return ids, mask, rewards


@pytest.fixture(scope="module")
def models_in(models):
    """The same two by dtype; bfloat16's with Qwen2's own norm, as they are trained."""
    found = {torch.float64: models}
    for dtype in (torch.float32, torch.bfloat16):
        found[dtype] = tuple(deepcopy(model).to(dtype) for model in models)
    for model in found[torch.bfloat16]:
        for module in model.modules():
            if isinstance(module, ExactNorm):
                module.__class__ = Qwen2RMSNorm
    return found


def both_steps(policy, reference, clips, rolled, **how):
    """The textbook's outcome and the fast path's."""
    slow = textbook_step(policy, reference, clips, rolled, **how)
    return slow, fast_step(policy, reference, clips, rolled, **how)


def textbook_step(
    policy, reference, clips, rolled, *, kl_coef, temperature=1.0, checkpointing=False
):
    ids, mask, rewards = rolled
    grouped = [textbook.Rollouts(*group) for group in zip(ids, mask, rewards, strict=True)]
    policy.zero_grad()
    step = textbook.grpo_step(
        policy, reference, clips, grouped, kl_coef=kl_coef, temperature=temperature
    )
    step.loss.backward()
    logprobs, ref_logprobs = (
        torch.stack(rows).detach() * mask for rows in (step.logprobs, step.ref_logprobs)
    )
    return Outcome(step.loss.item(), step.kl.item(), logprobs, ref_logprobs, gradients(policy))


def fast_step(policy, reference, clips, rolled, *, kl_coef, temperature=1.0, checkpointing=False):
    ids, mask, rewards = rolled
    policy.zero_grad()
    prompts = as_batch(policy, clips)
    prefix = prefill_asked(as_backbone(policy), prompts, checkpointing=checkpointing)
    advantages = group_advantages(rewards.to(torch.promote_types(policy.dtype, torch.float32)))
    compared = group_loss(
        as_backbone(policy),
        nullcontext(as_backbone(reference)),
        Rollouts(prompts, prefix, sampled(ids, mask, torch.zeros(ids.shape)), advantages),
        temperature=temperature,
        kl_coef=kl_coef,
        checkpointing=checkpointing,
    )
    logprobs, _ = score_completions(  # as group_loss does, of all groups
        policy, prefix, ids, mask, temperature=temperature, checkpointing=checkpointing
    )
    with torch.no_grad():
        known = prefill_asked(as_backbone(reference), prompts)
        ref_logprobs, _ = score_completions(reference, known, ids, mask, temperature=temperature)
    if compared.loss.requires_grad:  # else no group has anything to teach
        compared.loss.backward()
    return Outcome(
        compared.loss.item(),
        compared.metrics["train/kl"],
        logprobs.detach(),
        ref_logprobs,
        gradients(policy),
    )


def gradients(model):
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def assert_same(fast, slow, tolerance):
    """Loss, KL and every gradient to `tolerance`, relative; each log probability to a tenth."""
    torch.testing.assert_close(fast.logprobs, slow.logprobs, rtol=tolerance / 10, atol=0.0)
    torch.testing.assert_close(fast.ref_logprobs, slow.ref_logprobs, rtol=tolerance / 10, atol=0.0)
    assert fast.kl == pytest.approx(slow.kl, rel=tolerance, abs=0.0)
    # A group's advantages, of size 1, sum to 0: the loss is the KL term, of size 1e-3, and what
    # rounding leaves of that sum, for which it is allowed one unit.
    rounding = torch.finfo(slow.logprobs.dtype).eps
    assert fast.loss == pytest.approx(slow.loss, rel=tolerance, abs=rounding)
    assert_equal(fast.gradients, slow.gradients, tolerance)


def assert_equal(ours, theirs, tolerance):
    """The norm of the difference, relative to the norm: of every gradient, for all together."""
    whole = torch.stack([g.norm() for g in theirs.values()]).norm()
    for name, gradient in theirs.items():
        difference = float((ours[name] - gradient).norm())
        # a gradient that is zero in theory (k_proj's bias) is held against the whole
        allowed = tolerance * max(float(gradient.norm()), 1e-4 * float(whole))
        assert difference <= allowed, (name, difference, float(gradient.norm()))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    text_lengths=st.lists(st.integers(3, 9), min_size=1, max_size=4),
    silent=st.sets(st.integers(0, 3)),
    G=st.integers(2, 8),
    T=st.integers(1, 12),
    seed=st.integers(0, 99),
    temperature=st.sampled_from([1.0, 0.7]),
    checkpointing=st.booleans(),
    blocks=st.sampled_from([1, 40, 2**19]),
)
@example([5], set(), 2, 1, 0, 1.0, False, 2**19)  # one prompt, completions of one token
@example([3, 9, 6], {0, 2}, 4, 6, 1, 0.7, True, 1)
@example([8, 3, 7, 5], {3}, 8, 12, 2, 1.0, False, 40)
def test_loss_kl_logprobs_and_every_gradient_are_the_textbooks(
    models_in, text_lengths, silent, G, T, seed, temperature, checkpointing, blocks
):
    """Float32 at 1e-4 relative, float64 at 1e-10, in one block and in the smallest."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setitem(attention.BLOCK_SCORES, "cpu", blocks)
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", max(blocks, 21))  # 3 x 7, or 1 x 40
    monkeypatch.setitem(head.MIN_POSITIONS, "cpu", 1 if blocks > 1 else 3)
    rolled = rollouts_of(len(text_lengths), G, T, seed)
    with monkeypatch.context():
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            policy, reference = models_in[dtype]
            slow, fast = both_steps(
                policy,
                reference,
                clips_of(policy, text_lengths, silent),
                rolled,
                kl_coef=0.04,
                temperature=temperature,
                checkpointing=checkpointing,
            )
            assert_same(fast, slow, tolerance)
    monkeypatch.undo()


def test_without_a_kl_term_groups_of_equal_rewards_are_left_out_exactly(models):
    policy, reference = models
    ids, mask, rewards = rollouts_of(3, 3, 4, seed=5)
    rewards[1] = 2.0
    rewards[0], rewards[2] = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    clips = clips_of(policy, [4, 8, 6], set())
    slow, fast = both_steps(policy, reference, clips, (ids, mask, rewards), kl_coef=0.0)
    assert fast.loss == pytest.approx(slow.loss, abs=1e-15)  # both 0 but for rounding
    assert_equal(fast.gradients, slow.gradients, 1e-10)


def test_the_gap_is_how_far_a_token_was_from_its_log_probability_at_sampling(models):
    """All 0.25 off in the first group and right in the second, so by the tokens of both."""
    policy, reference = models
    ids, mask, rewards = rollouts_of(2, 3, 4, seed=5)
    prompts = as_batch(policy, clips_of(policy, [4, 8], set()))
    with torch.no_grad():
        prefix = prefill_asked(as_backbone(policy), prompts)
        old, _ = score_completions(policy, prefix, ids, mask, temperature=0.7)
        old[0] -= 0.25
        found = group_loss(
            as_backbone(policy),
            nullcontext(as_backbone(reference)),
            Rollouts(prompts, None, sampled(ids, mask, old), group_advantages(rewards)),
            temperature=0.7,
            kl_coef=0.04,
        )
    expected = 0.25 * float(mask[0].sum() / mask.sum())
    assert found.metrics["rollout/logprob_gap"] == pytest.approx(expected, rel=1e-9)


def test_without_a_kl_term_a_batch_of_equal_rewards_moves_nothing(models):
    policy, reference = models
    ids, mask, rewards = rollouts_of(2, 3, 4, seed=5)
    clips = clips_of(policy, [4, 8], set())
    rolled = ids, mask, torch.ones_like(rewards)
    fast = fast_step(policy, reference, clips, rolled, kl_coef=0.0)
    assert fast.loss == 0.0
    assert all(not gradient.any() for gradient in fast.gradients.values())


@pytest.mark.parametrize(
    ("text_lengths", "silent", "G", "T", "checkpointing", "key_bias"),
    [
        ([5, 9], set(), 4, 6, False, 0.0),
        ([7, 3, 9], {1}, 8, 12, True, 0.0),
        ([4], {0}, 2, 3, False, 0.0),
        ([7, 3, 9], {1}, 8, 12, False, KEY_BIAS),
    ],
)
def test_in_bfloat16_the_fast_path_is_no_further_from_the_truth_than_the_textbook(
    models_in, text_lengths, silent, G, T, checkpointing, key_bias
):
    """The truth: the textbook in float64, with the same rounded weights and clips."""
    rounded = [with_key_bias(model, key_bias) for model in models_in[torch.bfloat16]]
    exact = [deepcopy(model).double() for model in rounded]
    clips = clips_of(rounded[0], text_lengths, silent)
    doubled = [
        replace(c, pixels=c.pixels.double(), mel=None if c.mel is None else c.mel.double())
        for c in clips
    ]
    slow_errors, fast_errors, sizes = ({name: [] for name in NO_FURTHER} for _ in range(3))
    for seed in range(3):
        rolled = rollouts_of(len(clips), G, T, seed)
        truth = numbers(textbook_step(*exact, doubled, rolled, kl_coef=0.04))
        steps = both_steps(*rounded, clips, rolled, kl_coef=0.04, checkpointing=checkpointing)
        slow, fast = map(numbers, steps)
        ids, fast["decoded"] = decoded_by(rounded[0], clips, seed)
        slow["decoded"] = textbook_logprobs(rounded[0], clips, ids)
        truth["decoded"] = textbook_logprobs(exact[0], doubled, ids)
        for name, true in truth.items():
            slow_errors[name].append(slow[name] - true)
            fast_errors[name].append(fast[name] - true)
            sizes[name].append(true)
    for name, factor in NO_FURTHER.items():
        theirs, ours, size = (
            float(torch.cat(x[name]).norm()) for x in (slow_errors, fast_errors, sizes)
        )
        # the textbook is a standard, and not exact; its keys of a hundred are rounded to a half
        assert 0 < theirs < (1.0 if key_bias else 0.05) * size, name
        tiny = torch.finfo(torch.float32).eps * size
        assert ours <= factor * theirs + tiny, (name, ours, theirs)


def with_key_bias(model, bias):
    """The model, or a copy of it whose keys' biases are +-bias."""
    if not bias:
        return model
    model = deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    for layer in model.model.layers:
        weight = layer.self_attn.k_proj.bias.data
        weight.copy_(bias * torch.randn(weight.shape, generator=generator).sign())
    return model


@torch.no_grad()
def decoded_by(policy, clips, seed):
    """Sampled ids (P, G, T) without an end, and their log probabilities at sampling, flat."""
    draws = uniform_draws(
        [torch.Generator().manual_seed(seed + i) for i in range(len(clips))], 4, 8
    )
    prefix = prefill_asked(as_backbone(policy), as_batch(policy, clips))
    decoded = decode(
        policy,
        prefix,
        group_size=4,
        max_new_tokens=8,
        eos_token_id=-1,
        temperature=1.0,
        draws=draws,
    )
    return decoded.token_ids, decoded.logprobs.double().flatten()


@torch.no_grad()
def textbook_logprobs(policy, clips, ids):
    pairs = zip(clips, ids, strict=True)
    rows = [textbook.completion_logprobs(policy, clip, group) for clip, group in pairs]
    return torch.stack(rows).double().flatten()


def numbers(outcome):
    """The loss, all log probabilities, the whole gradient: each a vector in float64."""
    return {
        "loss": torch.tensor([outcome.loss], dtype=torch.float64),
        "logprobs": torch.stack([outcome.logprobs, outcome.ref_logprobs]).flatten().double(),
        "gradients": torch.cat([g.flatten().double() for g in outcome.gradients.values()]),
    }


def test_sampled_logprobs_are_the_textbooks(models):
    """Prompts of different lengths; rows leave the batch as they end, whole prompts too."""
    policy, _ = models
    clips = clips_of(policy, [3, 9, 5, 7], {1})
    prompts = as_batch(policy, clips)
    with torch.no_grad():
        prefix = prefill_asked(as_backbone(policy), prompts)
        generators = [torch.Generator().manual_seed(place) for place in range(4)]
        decoded = decode(
            policy,
            prefix,
            group_size=2,
            max_new_tokens=60,
            eos_token_id=END,
            temperature=0.9,
            draws=uniform_draws(generators, 2, 60),
        )
        slow = [
            textbook.completion_logprobs(policy, clip, ids, 0.9)
            for clip, ids in zip(clips, decoded.token_ids, strict=True)
        ]
    lengths = decoded.mask.sum(dim=2)
    assert lengths.min() < 10 and lengths.amax(dim=1).unique().numel() > 1
    expected = (torch.stack(slow) * decoded.mask).float()
    torch.testing.assert_close(decoded.logprobs, expected, rtol=1e-5, atol=1e-5)


def test_a_completion_is_the_same_whatever_else_is_in_its_batch(models):
    policy, _ = models
    clips = clips_of(policy, [3, 9, 5], set())

    def sampled(chosen):
        prompts = as_batch(policy, [clips[i] for i in chosen])
        with torch.no_grad():
            prefix = prefill_asked(as_backbone(policy), prompts)
            draws = uniform_draws([torch.Generator().manual_seed(i) for i in chosen], 3, 12)
            return decode(
                policy,
                prefix,
                group_size=3,
                max_new_tokens=12,
                eos_token_id=END,
                temperature=1.0,
                draws=draws,
            ).token_ids

    together = sampled([0, 1, 2])
    for i in range(3):
        alone = sampled([i])[0]
        assert together[i, :, : alone.shape[1]].tolist() == alone.tolist()


def test_the_textbook_and_the_fast_path_sample_alike(models):
    """The share of each first token over many draws, against the softmax."""
    policy, _ = models
    clip = clips_of(policy, [4], set())[0]
    generator = torch.Generator().manual_seed(0)
    drawn = textbook.generate(
        policy, clip, group_size=4000, max_new_tokens=1, temperature=1.0, generator=generator
    )
    prompts = as_batch(policy, [clip])
    with torch.no_grad():
        prefix = prefill_asked(as_backbone(policy), prompts)
        chances = policy.lm_head(prefix.last_hidden)[0].softmax(-1)
        decoded = decode(
            policy,
            prefix,
            group_size=4000,
            max_new_tokens=1,
            eos_token_id=END,
            temperature=1.0,
            draws=uniform_draws([generator], 4000, 1),
        )
    for ids in (drawn, decoded.token_ids[0]):
        shares = torch.bincount(ids.flatten(), minlength=40) / 4000
        assert float((shares - chances).abs().max()) < 0.03  # 4 standard errors of a half
