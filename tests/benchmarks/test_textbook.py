"""The fast GRPO step against the textbook's: loss, KL, logprobs and every gradient."""

from copy import deepcopy

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from benchmarks import textbook
from benchmarks.workload import make_clip
from r1omni.model import HumanOmniForConditionalGeneration, attention, head
from r1omni.model.prompting import PromptBatch
from r1omni.model.sampling import decode, uniform_draws
from r1omni.model.shared_prefix import prefill
from r1omni.training.group_loss import Sampled, group_loss
from r1omni.training.losses import group_advantages

END = 1  # the end token


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
    return PromptBatch(ids, mask, gates, torch.ones_like(gates), vision, audio)


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


def both_steps(policy, reference, clips, rolled, *, kl_coef, temperature=1.0, recompute=False):
    """The textbook's and the fast path's (loss, metrics or step, gradients by name)."""
    ids, mask, rewards = rolled
    grouped = [textbook.Rollouts(*group) for group in zip(ids, mask, rewards, strict=True)]
    policy.zero_grad()
    slow = textbook.grpo_step(
        policy, reference, clips, grouped, kl_coef=kl_coef, temperature=temperature
    )
    slow.loss.backward()
    expected = gradients(policy)
    policy.zero_grad()
    prompts = as_batch(policy, clips)
    embeds, seen = policy.embed_prompt(
        prompts.input_ids,
        prompts.attention_mask,
        vision_features=prompts.vision_features,
        audio_features=prompts.audio_features,
        gate_input_ids=prompts.gate_input_ids,
        gate_attention_mask=prompts.gate_attention_mask,
    )
    prefix = prefill(policy.model, embeds, seen, recompute=recompute)
    advantages = group_advantages(rewards.to(policy.dtype))
    fast = group_loss(
        policy,
        reference,
        Sampled(prompts, prefix, ids, mask, advantages),
        temperature=temperature,
        kl_coef=kl_coef,
        recompute=recompute,
    )
    fast.loss.backward()
    return slow, expected, fast, gradients(policy)


def gradients(model):
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def assert_equal(ours, theirs, tolerance):
    """The norm of the difference, relative to the norm: of every gradient, for all together."""
    whole = torch.stack([g.norm() for g in theirs.values()]).norm()
    for name, gradient in theirs.items():
        difference = float((ours[name] - gradient).norm())
        # a gradient that is zero in theory (k_proj's bias) is held against the whole
        allowed = tolerance * max(float(gradient.norm()), 1e-4 * float(whole))
        assert difference <= allowed, (name, difference, float(gradient.norm()))


@settings(max_examples=12, deadline=None)
@given(
    text_lengths=st.lists(st.integers(3, 9), min_size=1, max_size=3),
    silent=st.sets(st.integers(0, 2)),
    G=st.integers(2, 4),
    T=st.integers(1, 6),
    seed=st.integers(0, 99),
    temperature=st.sampled_from([1.0, 0.7]),
    recompute=st.booleans(),
    blocks=st.sampled_from([1, 40, 2**19]),
)
@example([5], set(), 2, 1, 0, 1.0, False, 2**19)  # one prompt, completions of one token
@example([3, 9, 6], {0, 2}, 4, 6, 1, 0.7, True, 1)
def test_loss_kl_and_every_gradient_are_the_textbooks(
    models, text_lengths, silent, G, T, seed, temperature, recompute, blocks
):
    """Float32 at 1e-4 relative, float64 at 1e-10, in one block and in the smallest."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setitem(attention.BLOCK_SCORES, "cpu", blocks)
    monkeypatch.setitem(head.CHUNK_LOGITS, "cpu", blocks)
    monkeypatch.setattr(head, "MIN_POSITIONS", 1)
    monkeypatch.setattr(head, "KEPT_LOGITS", 0 if blocks == 1 else 2**24)
    rolled = rollouts_of(len(text_lengths), G, T, seed)
    with monkeypatch.context():
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
            policy, reference = (deepcopy(model).to(dtype) for model in models)
            slow, expected, fast, got = both_steps(
                policy,
                reference,
                clips_of(policy, text_lengths, silent),
                rolled,
                kl_coef=0.04,
                temperature=temperature,
                recompute=recompute,
            )
            scale = max(1e-3, abs(slow.loss.item()))
            assert fast.loss.item() == pytest.approx(slow.loss.item(), abs=tolerance * scale)
            assert fast.metrics["train/kl"] == pytest.approx(float(slow.kl), rel=10 * tolerance)
            assert_equal(got, expected, tolerance)
    monkeypatch.undo()


def test_without_a_kl_term_groups_of_equal_rewards_are_left_out_exactly(models):
    policy, reference = models
    ids, mask, rewards = rollouts_of(3, 3, 4, seed=5)
    rewards[1] = 2.0
    rewards[0], rewards[2] = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    clips = clips_of(policy, [4, 8, 6], set())
    slow, expected, fast, got = both_steps(
        policy, reference, clips, (ids, mask, rewards), kl_coef=0.0
    )
    assert fast.loss.item() == pytest.approx(slow.loss.item(), abs=1e-12)
    assert_equal(got, expected, 1e-10)


def test_without_a_kl_term_a_batch_of_equal_rewards_moves_nothing(models):
    policy, reference = models
    ids, mask, rewards = rollouts_of(2, 3, 4, seed=5)
    clips = clips_of(policy, [4, 8], set())
    _, _, fast, got = both_steps(
        policy, reference, clips, (ids, mask, torch.ones_like(rewards)), kl_coef=0.0
    )
    assert fast.loss.item() == 0.0
    assert all(not gradient.any() for gradient in got.values())


def test_in_bfloat16_the_fast_path_is_no_further_from_the_truth_than_the_textbook(models):
    policy, reference = models
    rolled = rollouts_of(2, 4, 6, seed=3)
    truth, *_ = both_steps(policy, reference, clips_of(policy, [5, 9], set()), rolled, kl_coef=0.04)
    policy, reference = (deepcopy(model).to(torch.bfloat16) for model in models)
    slow, slow_gradients, fast, fast_gradients = both_steps(
        policy, reference, clips_of(policy, [5, 9], set()), rolled, kl_coef=0.04
    )
    assert abs(fast.loss.item() - truth.loss.item()) < 0.02
    assert fast.metrics["train/kl"] == pytest.approx(truth.kl.item(), abs=0.02)
    assert fast.metrics["train/kl"] == pytest.approx(slow.kl.item(), abs=0.02)
    whole = torch.cat([g.flatten() for g in slow_gradients.values()]).float()
    ours = torch.cat([g.flatten() for g in fast_gradients.values()]).float()
    assert torch.cosine_similarity(ours, whole, dim=0) > 0.99


def test_sampled_logprobs_are_the_textbooks(models):
    """Prompts of different lengths; rows leave the batch as they end, whole prompts too."""
    policy, _ = models
    clips = clips_of(policy, [3, 9, 5, 7], {1})
    prompts = as_batch(policy, clips)
    with torch.no_grad():
        embeds, seen = policy.embed_prompt(
            prompts.input_ids,
            prompts.attention_mask,
            vision_features=prompts.vision_features,
            audio_features=prompts.audio_features,
            gate_input_ids=prompts.gate_input_ids,
        )
        generators = [torch.Generator().manual_seed(place) for place in range(4)]
        decoded = decode(
            policy,
            prefill(policy.model, embeds, seen),
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
            embeds, seen = policy.embed_prompt(
                prompts.input_ids,
                prompts.attention_mask,
                vision_features=prompts.vision_features,
                audio_features=prompts.audio_features,
                gate_input_ids=prompts.gate_input_ids,
            )
            draws = uniform_draws([torch.Generator().manual_seed(i) for i in chosen], 3, 12)
            return decode(
                policy,
                prefill(policy.model, embeds, seen),
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
        embeds, seen = policy.embed_prompt(
            prompts.input_ids,
            vision_features=prompts.vision_features,
            audio_features=prompts.audio_features,
            gate_input_ids=prompts.gate_input_ids,
        )
        prefix = prefill(policy.model, embeds, seen)
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
