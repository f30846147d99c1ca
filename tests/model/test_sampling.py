"""The shared prefix against the obviously right version: repeat the prompt, run everything."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from noise import noise_features

from r1omni.model.backbone import prefill_prompts
from r1omni.model.sampling import decode, score_completions, uniform_draws
from r1omni.model.shared_prefix import count_positions, prefill
from r1omni.training.losses import group_advantages, grpo_loss

TEXTS = ["short", "a rather longer question about the face?", "the voice"]


def textbook_logprobs(model, processor, features, instructions, token_ids):
    """(P, G, T) logprobs by running prompt + completion as one sequence, one row at a time."""
    P, G, T = token_ids.shape
    rows = []
    for p in range(P):
        ids, mask = processor.encode_gate(instructions[p])
        embeds, _ = model.embed_prompt(
            torch.tensor([processor.encode_prompt(instructions[p])]),
            vision_features=features[p]["vision"][None],
            audio_features=features[p]["audio"][None],
            gate_input_ids=torch.tensor([ids]),
            gate_attention_mask=torch.tensor([mask]),
        )
        for g in range(G):
            completion = model.model.embed_tokens(token_ids[p, g][None])
            logits = model(inputs_embeds=torch.cat([embeds, completion], dim=1)).logits[0]
            logprobs = logits[embeds.shape[1] - 1 : -1].log_softmax(-1)
            rows.append(logprobs.gather(-1, token_ids[p, g][:, None])[:, 0])
    return torch.stack(rows).view(P, G, T)


@settings(max_examples=8, deadline=None)
@given(P=st.integers(1, 3), G=st.integers(1, 4), T=st.integers(1, 6), seed=st.integers(0, 99))
def test_scores_and_gradients_equal_the_textbooks(tiny, P, G, T, seed):
    model, processor = tiny.model, tiny.processor
    features = make_features(model, P)
    instructions = [TEXTS[(seed + p) % 3] for p in range(P)]  # left padding where they differ
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 300, (P, G, T), generator=generator)
    lengths = torch.randint(1, T + 1, (P, G), generator=generator)
    mask = (torch.arange(T) < lengths[..., None]).long()
    weights = torch.randn(P, G, T, generator=generator) * mask
    watched = [
        model.model.layers[0].self_attn.k_proj.weight,
        model.model.audio_projector[0].weight,
        model.model.embed_tokens.weight,
    ]

    prefix = prefill_prompts(tiny, features, instructions)
    fast, _ = score_completions(model, prefix, ids, mask)
    slow = textbook_logprobs(model, processor, features, instructions, ids)

    torch.testing.assert_close(fast, slow * mask, rtol=1e-5, atol=1e-5)
    fast_grads = torch.autograd.grad((fast * weights).sum(), watched)
    slow_grads = torch.autograd.grad((slow * weights).sum(), watched)
    for ours, theirs in zip(fast_grads, slow_grads, strict=True):
        assert float((ours - theirs).norm()) <= 1e-4 * float(theirs.norm()) + 1e-6


def test_greedy_decoding_picks_what_the_full_forward_picks(tiny):
    model, processor = tiny.model, tiny.processor
    features = make_features(model, 2)
    instructions = TEXTS[:2]
    with torch.no_grad():
        prefix = prefill_prompts(tiny, features, instructions)
        decoded = decode(model, prefix, group_size=1, max_new_tokens=6, eos_token_id=-1)
        for p in range(2):
            logprobs = []
            for t in range(6):
                ids = decoded.token_ids[p : p + 1, :, : t + 1]
                one = features[p : p + 1]
                logprobs.append(
                    textbook_logprobs(model, processor, one, [instructions[p]], ids)[0, 0, t]
                )
            torch.testing.assert_close(decoded.logprobs[p, 0], torch.stack(logprobs))


def test_sampled_logprobs_are_those_that_training_scores(tiny):
    model, processor = tiny.model, tiny.processor
    with torch.no_grad():
        prefix = prefill_prompts(tiny, make_features(model, 2), TEXTS[:2])
        decoded = decode(
            model,
            prefix,
            group_size=3,
            max_new_tokens=8,
            eos_token_id=processor.eos_token_id,
            temperature=0.7,
            draws=uniform_draws([torch.Generator().manual_seed(3)] * 2, 3, 8),
        )
        scored, entropy = score_completions(
            model, prefix, decoded.token_ids, decoded.mask, temperature=0.7
        )
    torch.testing.assert_close(scored, decoded.logprobs, rtol=1e-5, atol=1e-5)
    assert bool((entropy[decoded.mask.bool()] > 0).all())


def test_a_completion_ends_at_its_end_token(tiny):
    model = tiny.model
    with torch.no_grad():
        prefix = prefill_prompts(tiny, make_features(model, 1), TEXTS[:1])
        free = decode(model, prefix, group_size=1, max_new_tokens=5, eos_token_id=-1)
        end = int(free.token_ids[0, 0, 2])
        stopped = decode(model, prefix, group_size=1, max_new_tokens=5, eos_token_id=end)
    first = free.token_ids[0, 0].tolist().index(end)
    assert stopped.mask[0, 0].tolist() == [1] * (first + 1)
    assert bool(stopped.finished[0, 0])


def test_a_completion_ends_at_whichever_end_token_comes_first(tiny):
    """Each against its own, unstopped twin: sampled, so that rows end at different ones."""
    model = tiny.model
    draws = uniform_draws([torch.Generator().manual_seed(i) for i in range(2)], 4, 40)
    how = {"group_size": 4, "max_new_tokens": 40, "temperature": 2.0, "draws": draws}
    with torch.no_grad():
        prefix = prefill_prompts(tiny, make_features(model, 2), TEXTS[:2])
        free = decode(model, prefix, eos_token_id=-1, **how)
        ends = (int(free.token_ids[0, 0, 3]), int(free.token_ids[1, 2, 5]))
        found = decode(model, prefix, eos_token_id=ends, **how)
    last_tokens = set()
    for p, g in itertools.product(range(2), range(4)):
        row = free.token_ids[p, g].tolist()
        stop = next((t for t, token in enumerate(row) if token in ends), None)
        length = 40 if stop is None else stop + 1
        assert found.mask[p, g].sum() == length
        assert found.token_ids[p, g, :length].tolist() == row[:length]
        assert set(found.token_ids[p, g, length:].tolist()) <= {ends[0]}
        assert bool(found.finished[p, g]) == (stop is not None)
        last_tokens.add(row[length - 1])
    assert set(ends) <= last_tokens


def test_greedy_is_the_limit_of_low_temperature(tiny):
    model = tiny.model
    with torch.no_grad():
        prefix = prefill_prompts(tiny, make_features(model, 1), TEXTS[:1])
        greedy = decode(model, prefix, group_size=1, max_new_tokens=5, eos_token_id=-1)
        cold = decode(
            model,
            prefix,
            group_size=4,
            max_new_tokens=5,
            eos_token_id=-1,
            temperature=1e-4,
            draws=uniform_draws([torch.Generator().manual_seed(0)], 4, 5),
        )
    assert cold.token_ids[0].tolist() == [greedy.token_ids[0, 0].tolist()] * 4


def make_features(model, n):
    return noise_features(model.config, n, torch.Generator().manual_seed(n))


@pytest.mark.parametrize("group_size", [1, 5])
def test_every_group_member_starts_from_the_same_distribution(tiny, group_size):
    model = tiny.model
    with torch.no_grad():
        prefix = prefill_prompts(tiny, make_features(model, 2), TEXTS[:2])
        ids = torch.full((2, group_size, 1), 7)
        logprobs, _ = score_completions(model, prefix, ids, torch.ones_like(ids))
    assert torch.equal(logprobs, logprobs[:, :1].expand_as(logprobs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_shared_prefix_gives_the_original_trainers_numbers(golden, dtype):
    """Loss, KL, logprobs and ten gradients of the original GRPO trainer, from one prefill."""
    golden = golden.to(dtype)
    model, inputs, outputs = golden.model, golden.inputs, golden.outputs
    prompt = golden.prompt()
    with torch.no_grad():
        vision = model.encode_vision(prompt["pixel_values_videos"])
        audio = model.encode_audio(prompt["input_features"])
    embeds, seen = model.embed_prompt(
        prompt["input_ids"],
        prompt["attention_mask"],
        vision_features=vision,
        audio_features=audio,
        gate_input_ids=prompt["gate_input_ids"],
        gate_attention_mask=prompt["gate_attention_mask"],
    )
    prefix = prefill(model.model, count_positions(embeds, seen))
    mask = outputs["grpo.completion_mask"].long()
    logprobs, _ = score_completions(model, prefix, inputs["grpo.completion_ids"][None], mask[None])
    advantages = group_advantages(inputs["grpo.rewards"][None])[0]
    reference = outputs["grpo.ref_per_token_logps"]
    loss, metrics = grpo_loss(logprobs[0], reference, advantages, mask, kl_coef=0.04)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    assert logprobs.dtype == loss.dtype == dtype
    assert sum(name.startswith("grad.") for name in outputs) == 10
    outputs["grpo.per_token_logps"] *= mask  # ours scores no token behind the end
    golden.assert_trainer_numbers(
        {
            "grpo.completion_mask": mask,
            "grpo.per_token_logps": logprobs[0].detach(),
            "grpo.advantages": advantages,
            "grpo.mean_kl": metrics["train/kl"][None],
            "grpo.loss": loss[None].detach(),
            "grad_norm.trainable": torch.stack([g.norm() for g in gradients.values()]).norm()[None],
        }
        | {f"grad.{name}": gradient for name, gradient in gradients.items()}
    )
