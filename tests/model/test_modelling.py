"""The model against the original's tensors, and what must hold at any size."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from r1omni.model import HumanOmniConfig, HumanOmniForConditionalGeneration
from r1omni.training.losses import group_advantages, grpo_loss, kl_to_reference


def assert_near(ours: Tensor, golden: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(ours, golden, atol=tolerance, rtol=0.0)


def golden_embeds(golden: Any) -> Tensor:
    prompt = golden.prompt()
    vision = golden.model.encode_vision(prompt.pop("pixel_values_videos"))
    audio = golden.model.encode_audio(prompt.pop("input_features"))
    embeds, mask = golden.model.embed_prompt(**prompt, vision_features=vision, audio_features=audio)
    assert mask.all()
    assert isinstance(embeds, Tensor)
    return embeds


@torch.no_grad()
def test_every_intermediate_tensor_is_the_originals(golden: Any) -> None:
    model, inputs, outputs = golden.model, golden.inputs, golden.outputs
    vision = model.encode_vision(inputs["pixel_frames"])
    encoder = model.model.audio_tower.audio_tower["encoder"]
    gate_ids, gate_mask = inputs["bert_input_ids"], inputs["bert_attention_mask"]
    gate = model.gate_weights(gate_ids, gate_mask)
    states = model.model.bert_model(gate_ids, attention_mask=gate_mask).last_hidden_state
    projector = model.model.mm_projector
    audio = model.encode_audio(inputs["input_features"])
    ours = {
        "vision_tower_features": vision[0],
        "proj_video": projector.video(vision),
        "proj_body": projector.body(vision),
        "proj_face_pooled": projector.face(vision),
        "bert_cls": states[:, 0],
        "branch_probs": gate,
        "visual_tokens": model.project_vision(vision, gate),
        "audio_tower_features": encoder(inputs["input_features"]).last_hidden_state,
        "audio_tokens": model.project_audio(audio),
        "inputs_embeds": golden_embeds(golden),
    }
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, outputs[name], atol=1e-5, rtol=0.0, msg=lambda text, n=name: f"{n}: {text}"
        )


@torch.no_grad()
def test_logits_and_16_greedy_tokens_are_the_originals(golden: Any) -> None:
    logits = golden.model(**golden.prompt()).logits
    assert_near(logits, golden.outputs["logits"], 1e-4)

    embeds, ids = golden_embeds(golden), []
    for _ in range(16):
        token = golden.model(inputs_embeds=embeds).logits[:, -1].argmax(dim=-1, keepdim=True)
        ids.append(int(token))
        embeds = torch.cat([embeds, golden.model.model.embed_tokens(token)], dim=1)
    assert ids == golden.outputs["greedy_ids"][0].tolist()


def test_transformers_generate_continues_an_embedded_prompt(golden: Any) -> None:
    embeds = golden_embeds(golden)
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    ids = golden.model.generate(
        inputs_embeds=embeds, attention_mask=mask, max_new_tokens=16, do_sample=False
    )
    assert ids.tolist() == golden.outputs["greedy_ids"].tolist()


def textbook_logprobs(golden: Any) -> Tensor:
    """Every completion behind its own copy of the prompt, as the original trainer: (G, C).

    Its attention hides what follows an end token, so even the masked positions agree.
    """
    ids = golden.inputs["grpo.completion_ids"]  # (G, C)
    prompt = golden_embeds(golden).expand(len(ids), -1, -1)
    embeds = torch.cat([prompt, golden.model.model.embed_tokens(ids)], dim=1)
    mask = torch.cat([torch.ones(prompt.shape[:2]), golden.outputs["grpo.completion_mask"]], dim=1)
    positions = torch.arange(embeds.shape[1])[None]
    logits = golden.model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions).logits[
        :, prompt.shape[1] - 1 : -1
    ]
    return torch.log_softmax(logits, dim=-1).gather(-1, ids[..., None]).squeeze(-1)


def textbook_grpo(golden: Any) -> dict[str, Tensor]:
    """The original trainer's numbers from formulas alone, in the model's precision."""
    ids, rewards = golden.inputs["grpo.completion_ids"], golden.inputs["grpo.rewards"]
    ends = (ids == 255).int()
    mask = (ends.cumsum(dim=1) - ends == 0).int()  # no end token before this position
    logprobs = textbook_logprobs(golden)
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    difference = golden.outputs["grpo.ref_per_token_logps"] - logprobs
    kl = torch.exp(difference) - difference - 1.0
    per_token = torch.exp(logprobs - logprobs.detach()) * advantages[:, None] - 0.04 * kl
    loss = (-(per_token * mask).sum(dim=1) / mask.sum(dim=1)).mean()

    towers = ("model.vision_tower.", "model.audio_tower.")
    trained = {n: p for n, p in golden.model.named_parameters() if not n.startswith(towers)}
    found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
    gradients = {n: g for n, g in zip(trained, found, strict=True) if g is not None}
    return {
        "grpo.completion_mask": mask,
        "grpo.per_token_logps": logprobs.detach(),
        "grpo.advantages": advantages,
        "grpo.mean_kl": ((kl * mask).sum(dim=1) / mask.sum(dim=1)).mean()[None].detach(),
        "grpo.loss": loss[None].detach(),
        "grad_norm.trainable": torch.stack([g.norm() for g in gradients.values()]).norm()[None],
    } | {f"grad.{name}": gradient for name, gradient in gradients.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_grpo_numbers_and_gradients_are_the_original_trainers(golden: Any, dtype: Any) -> None:
    golden = golden.to(dtype)
    assert sum(name.startswith("grad.") for name in golden.trainer_numbers()) == 10
    golden.assert_trainer_numbers(textbook_grpo(golden))


def test_our_losses_give_the_original_trainers_numbers(golden: Any) -> None:
    outputs, rewards = golden.outputs, golden.inputs["grpo.rewards"]
    advantages = group_advantages(rewards[None])[0]
    torch.testing.assert_close(advantages, outputs["grpo.advantages"], rtol=1e-5, atol=0.0)
    mask = outputs["grpo.completion_mask"]
    logprobs, reference = outputs["grpo.per_token_logps"], outputs["grpo.ref_per_token_logps"]
    loss, _ = grpo_loss(logprobs, reference, advantages, mask, kl_coef=0.04)
    torch.testing.assert_close(loss[None], outputs["grpo.loss"], rtol=1e-5, atol=0.0)
    kl = kl_to_reference(logprobs, reference)
    mean_kl = ((kl * mask).sum(dim=1) / mask.sum(dim=1)).mean()
    torch.testing.assert_close(mean_kl[None], outputs["grpo.mean_kl"], rtol=1e-5, atol=0.0)


def small_batch() -> dict[str, Tensor]:
    """Three rows: both media; video only; text only. Left-padded to 7 ids."""
    torch.manual_seed(1)
    return {
        "input_ids": torch.tensor(
            [[0, 5, -201, 6, -202, 7, 8], [0, 0, 0, 9, 10, -201, 11], [12, 13, 14, 15, 16, 17, 18]]
        ),
        "attention_mask": torch.tensor(
            [[0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1]]
        ),
        "vision_features": torch.randn(3, 2, 16, 8),
        "audio_features": torch.randn(3, 6, 8),
        "gate_input_ids": torch.tensor([[2, 3, 4, 0], [2, 5, 6, 7], [2, 3, 0, 0]]),
        "gate_attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]),
    }


@torch.no_grad()
def test_each_row_of_a_padded_batch_has_the_logits_it_has_alone(small_model: Any) -> None:
    batch = small_batch()
    together = small_model(**batch).logits
    assert together.shape == (3, 18, 40)  # 4 text + 8 visual + 6 audio at most
    for row, length in enumerate((18, 11, 7)):
        keep = batch["attention_mask"][row].bool()
        gate = batch["gate_attention_mask"][row].bool()
        alone = small_model(
            input_ids=batch["input_ids"][row : row + 1, keep],
            vision_features=batch["vision_features"][row : row + 1],
            audio_features=batch["audio_features"][row : row + 1],
            gate_input_ids=batch["gate_input_ids"][row : row + 1, gate],
        ).logits
        assert alone.shape[1] == length
        assert_near(together[row, -length:], alone[0], 1e-6)


@torch.no_grad()
def test_sentinels_become_their_tokens_in_place(small_model: Any) -> None:
    batch = small_batch()
    embeds, mask = small_model.embed_prompt(**batch)
    gate = small_model.gate_weights(batch["gate_input_ids"], batch["gate_attention_mask"])
    visual = small_model.project_vision(batch["vision_features"], gate)
    audio = small_model.project_audio(batch["audio_features"])
    words = small_model.model.embed_tokens.weight
    first = torch.cat([words[[5]], visual[0], words[[6]], audio[0], words[[7, 8]]])
    second = torch.cat([torch.zeros(7, 16), words[[9, 10]], visual[1], words[[11]]])
    assert mask.sum(dim=1).tolist() == [18, 11, 7]
    assert_near(embeds[0], first, 1e-6)
    assert_near(embeds[1], second, 1e-6)


@torch.no_grad()
def test_a_cached_continuation_has_the_logits_of_the_whole(small_model: Any) -> None:
    batch = small_batch()
    tail = torch.tensor([[20, 21], [22, 23], [24, 25]])
    first = small_model(**batch, use_cache=True)
    expanded = (torch.arange(18) >= torch.tensor([[0], [7], [11]])).long()
    mask = torch.cat([expanded, torch.ones(3, 2, dtype=torch.long)], dim=1)
    rest = small_model(tail, mask, past_key_values=first.past_key_values, use_cache=True).logits

    batch["input_ids"] = torch.cat([batch["input_ids"], tail], dim=1)
    ones = torch.ones(3, 2, dtype=torch.long)
    batch["attention_mask"] = torch.cat([batch["attention_mask"], ones], dim=1)
    assert_near(rest, small_model(**batch).logits[:, -2:], 1e-6)


def test_a_batch_without_media_still_runs_every_branch_with_zero_gradient(small_model: Any) -> None:
    small_model(torch.tensor([[5, 6, 7]])).logits.sum().backward()
    for part in ("mm_projector", "bert_gate", "audio_projector"):
        for name, parameter in getattr(small_model.model, part).named_parameters():
            assert parameter.grad is not None, f"{part}.{name}"
            assert not parameter.grad.any(), f"{part}.{name}"


def test_a_sentinel_without_features_is_refused(small_model: Any) -> None:
    with pytest.raises(ValueError, match=r"input_ids\[0, 1\] is -202.*no features"):
        small_model(torch.tensor([[5, -202, 7]]))


def test_a_sentinel_twice_in_a_row_is_refused(small_model: Any) -> None:
    with pytest.raises(ValueError, match="-202 stands more than once"):
        small_model(torch.tensor([[-202, -202]]), audio_features=torch.zeros(1, 6, 8))


def test_vision_features_without_a_gate_are_refused(small_model: Any) -> None:
    with pytest.raises(ValueError, match="need gate_input_ids"):
        small_model(torch.tensor([[-201]]), vision_features=torch.zeros(1, 2, 16, 8))


@torch.no_grad()
def test_only_the_layers_below_the_selected_state_run(small_model: Any) -> None:
    frames = torch.randn(1, 2, 3, 16, 16)
    before = small_model.encode_vision(frames)
    tower = small_model.model.vision_tower.vision_tower["vision_model"]
    tower.encoder.layers[2].mlp.fc1.weight.fill_(float("nan"))  # the last of three layers
    assert_near(small_model.encode_vision(frames), before, 0.0)


@torch.no_grad()
def test_audio_is_the_mean_of_three_positions(small_model: Any) -> None:
    mel = torch.randn(1, 6, 40)
    states = small_model.model.audio_tower.audio_tower["encoder"](mel).last_hidden_state
    pooled = small_model.encode_audio(mel)
    assert pooled.shape == (1, 6, 8)  # floor(20 / 3), the last two positions dropped
    assert_near(pooled[0, 5], states[0, 15:18].mean(dim=0), 1e-6)


def test_a_random_model_starts_near_the_uniform_distribution(small_model: Any) -> None:
    logits = small_model(**small_batch()).logits.flatten(0, 1)
    loss = functional.cross_entropy(logits, torch.arange(54) % 40).detach()
    assert abs(float(loss) - 3.689) < 0.05  # log(40)


def test_saved_and_loaded_through_the_auto_classes_it_has_equal_logits(
    small_model: Any, tmp_path: Any
) -> None:
    small_model.config.answer_mode = "reasoned"
    small_model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, HumanOmniConfig)
    assert (config.answer_mode, config.audio_tokens, config.visual_tokens) == ("reasoned", 6, 8)
    assert isinstance(AutoModel.from_pretrained(tmp_path), HumanOmniForConditionalGeneration)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(loaded, HumanOmniForConditionalGeneration)
    assert not loaded.training
    batch = small_batch()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, small_model(**batch).logits)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_an_untied_head_is_saved_and_loaded(small_config: Any, tmp_path: Any) -> None:
    settings = small_config.to_dict() | {"tie_word_embeddings": False}
    model = HumanOmniForConditionalGeneration(HumanOmniConfig(**settings))
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    loaded = HumanOmniForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert loaded.lm_head.weight is not loaded.model.embed_tokens.weight


def test_eager_attention_is_refused(small_config: Any) -> None:
    small_config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="sdpa"):
        HumanOmniForConditionalGeneration(small_config)
