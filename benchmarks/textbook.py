"""A plain GRPO step: the oracle of the tests, and the baseline of the fast path's timing.

It does what the original trainer does, one clip at a time. It repeats the clip and its prompt G
times. Every pass runs towers, connector and the whole sequence for every completion and keeps the
logits of all positions. It shares only the model class with the fast path.
Shapes: `G` completions of a clip, `L` prompt ids, `T` completion tokens, `D` width, `V` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from r1omni.model import HumanOmniForConditionalGeneration

Model = HumanOmniForConditionalGeneration


@dataclass(frozen=True)
class Prompt:
    """One clip and its question; each of the two media is raw, as features, or absent."""

    input_ids: Tensor  # (1, L) with sentinels
    gate_input_ids: Tensor  # (1, I)
    pixels: Tensor | None = None  # (1, F, 3, H, W)
    mel: Tensor | None = None  # (1, M, T)
    vision_features: Tensor | None = None  # (1, F, N, Dv)
    audio_features: Tensor | None = None  # (1, A, Da)


@dataclass(frozen=True)
class Rollouts:
    """G completions of one clip with their rewards."""

    token_ids: Tensor  # (G, T)
    mask: Tensor  # (G, T), 1 up to and including the end token
    rewards: Tensor  # (G,)


@dataclass(frozen=True)
class Step:
    """The loss, with its autograd graph, and its parts."""

    loss: Tensor
    kl: Tensor
    logprobs: list[Tensor]  # per clip (G, T)
    ref_logprobs: list[Tensor]


def use_library_layers(model: nn.Module) -> None:
    """Take back what the fast path changes in the model's modules: transformers' and torch's own
    feed-forward and products, as the original trainer has them."""
    for module in model.modules():
        module.__dict__.pop("forward", None)


def grpo_step(
    policy: Model,
    reference: Model,
    prompts: Sequence[Prompt],
    rollouts: Sequence[Rollouts],
    *,
    kl_coef: float,
    temperature: float = 1.0,
) -> Step:
    """GRPO's loss over some clips: per token -(ratio A - kl_coef k3), averaged over the tokens of a
    completion, then over all completions (arXiv 2402.03300; R1-Omni's released trainer)."""
    losses, kls, all_logprobs, all_ref = [], [], [], []
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        logprobs = completion_logprobs(policy, prompt, rollout.token_ids, temperature)
        with torch.no_grad():
            ref = completion_logprobs(reference, prompt, rollout.token_ids, temperature)
        rewards = rollout.rewards.to(logprobs.dtype)
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        mask = rollout.mask.to(logprobs.dtype)
        kl = torch.exp(ref - logprobs) - (ref - logprobs) - 1
        ratio = torch.exp(logprobs - logprobs.detach())
        per_token = -(ratio * advantages.unsqueeze(1) - kl_coef * kl)
        losses.append((per_token * mask).sum(dim=1) / mask.sum(dim=1))
        kls.append((kl.detach() * mask).sum(dim=1) / mask.sum(dim=1))
        all_logprobs.append(logprobs)
        all_ref.append(ref)
    return Step(torch.cat(losses).mean(), torch.cat(kls).mean(), all_logprobs, all_ref)


def completion_logprobs(
    model: Model, prompt: Prompt, token_ids: Tensor, temperature: float = 1.0
) -> Tensor:
    """The log probability of every completion token, padding too: (G, T) -> (G, T).

    Every row has its own copy of clip, prompt and completion; all positions get logits.
    """
    G, _ = token_ids.shape
    embeds = embed(model, prompt, copies=G)  # (G, L', D)
    length = embeds.shape[1]
    embeds = torch.cat([embeds, model.model.embed_tokens(token_ids)], dim=1)
    hidden = model.model(inputs_embeds=embeds).last_hidden_state
    logits = model.lm_head(hidden)[:, :-1]  # (G, L' + T - 1, V)
    filler = token_ids.new_zeros(G, length - 1)  # the prompt's log probabilities are not used
    following = torch.cat([filler, token_ids], dim=1)
    rows = []
    for row, ids in zip(logits, following, strict=True):
        logprobs = (row.float() if row.dtype != torch.float64 else row) / temperature
        rows.append(logprobs.log_softmax(dim=-1).gather(1, ids[:, None]).squeeze(1))
    return torch.stack(rows)[:, length - 1 :]


def embed(model: Model, prompt: Prompt, copies: int) -> Tensor:
    """The expanded prompt, computed for each copy, towers and connector too: (G, L', D)."""

    def repeated(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.repeat_interleave(copies, dim=0)

    vision, audio = repeated(prompt.vision_features), repeated(prompt.audio_features)
    if prompt.pixels is not None:
        vision = vision_tower(model, prompt.pixels.repeat_interleave(copies, dim=0))
    if prompt.mel is not None:
        audio = audio_tower(model, prompt.mel.repeat_interleave(copies, dim=0))
    embeds, _ = model.embed_prompt(
        prompt.input_ids.repeat_interleave(copies, dim=0),
        vision_features=vision,
        audio_features=audio,
        gate_input_ids=repeated(prompt.gate_input_ids),
    )
    return embeds


@torch.no_grad()
def vision_tower(model: Model, pixels: Tensor) -> Tensor:
    """SigLIP's selected hidden state, from a pass that keeps all of them: -> (G, F, N, Dv)."""
    siglip = model.model.vision_tower.vision_tower["vision_model"]
    states = siglip(pixels.flatten(0, 1), output_hidden_states=True).hidden_states
    features: Tensor = states[model.config.vision_select_layer]
    return features.unflatten(0, pixels.shape[:2])


@torch.no_grad()
def audio_tower(model: Model, mel: Tensor) -> Tensor:
    """Whisper's last state, averaged over `audio_pool` positions: (G, M, T) -> (G, A, Da)."""
    states = model.model.audio_tower.audio_tower["encoder"](mel).last_hidden_state
    pool = model.config.audio_pool
    whole = states[:, : states.shape[1] // pool * pool]
    pooled: Tensor = whole.unflatten(1, (-1, pool)).mean(dim=2)
    return pooled


@torch.no_grad()
def generate(
    model: Model,
    prompt: Prompt,
    *,
    group_size: int,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """G sampled completions that never end: (G, T). The clip is encoded once."""
    embeds = embed(model, prompt, copies=1).repeat_interleave(group_size, dim=0)
    past, tokens = None, []
    for _ in range(max_new_tokens):
        outputs = model.model(inputs_embeds=embeds, past_key_values=past, use_cache=True)
        past = outputs.past_key_values
        logits = model.lm_head(outputs.last_hidden_state[:, -1]).float() / temperature
        token = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)  # (G, 1)
        tokens.append(token)
        embeds = model.model.embed_tokens(token)
    return torch.cat(tokens, dim=1)
