"""Every backbone against its model's own forward, and the traps that would be silent.

The oracle runs whole rows, prompts repeated and towers run again (own_forward.py). Each mutation
puts one trap in, and the same comparison must fail.
"""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from own_forward import HumanOmniOracle, ThinkerOracle, round_towers
from tiny_thinker import BOTH, LARGE, RAGGED, noise_clips, tiny_thinker
from torch import Tensor

from r1omni import completions, prompts
from r1omni.inference.branches import continue_prefix
from r1omni.inference.greedy import answer_batch
from r1omni.inference.probabilities import label_probabilities
from r1omni.model.backbone import prefill_asked, prefill_prompts
from r1omni.model.sampling import decode, score_completions
from r1omni.model.shared_prefix import Packing, count_positions, extend
from r1omni.training.losses import group_advantages, grpo_loss

TEXTS = ["short", "a rather longer question about the face?", "the voice", "which one is it?"]
KINDS = ["humanomni", "qwen", "qwen-in-video"]
TOLERANCE = 1e-5
G, T = 3, 6


class Case:
    """A backbone, clips for it, and the oracle with the same weights."""

    def __init__(self, backbone: Any, oracle: Any, towers: Any, shapes: Any) -> None:
        self.backbone, self.make_oracle = backbone, oracle
        round_towers(towers)
        backbone.freeze()
        self.clips = noise_clips(backbone.preparation, shapes)
        self.texts = TEXTS[: len(self.clips)]
        generator = torch.Generator().manual_seed(5)
        P = len(self.clips)
        self.ids = torch.randint(20, 300, (P, G, T), generator=generator)
        lengths = torch.randint(1, T + 1, (P, G), generator=generator)
        lengths[0, 0] = T
        self.mask = (torch.arange(T) < lengths[..., None]).long()

    def double(self) -> "Case":
        self.backbone.model.double()
        return self

    def oracle(self) -> Any:
        return self.make_oracle(self.backbone)

    def ask(self) -> Any:
        return self.backbone.ask(self.backbone.encode(self.clips), self.texts)


def thinker_case(shapes: Any = RAGGED, **media: Any) -> Case:
    backbone = tiny_thinker()
    backbone.media = replace(backbone.media, **media)
    inner = backbone.model.model
    return Case(backbone, ThinkerOracle, [inner.visual, inner.audio_tower], shapes)


def humanomni_case(tiny: Any) -> Case:
    backbone = deepcopy(tiny)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in backbone.model.named_parameters():
            if "embed" not in name:  # else each token predicts itself
                parameter.add_(0.2 * torch.randn_like(parameter))
    inner = backbone.model.model
    return Case(backbone, HumanOmniOracle, [inner.vision_tower, inner.audio_tower], RAGGED)


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, tiny: Any) -> Case:
    if request.param == "humanomni":
        return humanomni_case(tiny)
    if request.param == "qwen":
        return thinker_case()
    return thinker_case(BOTH, audio_in_video=True)


def our_logits(case: Case) -> Tensor:
    """What predicts each completion token, against the shared prefix: (P, G, T, V)."""
    language_model = case.backbone.language_model
    prefix = prefill_asked(case.backbone, case.ask())
    P = len(case.clips)
    embeds = language_model.model.embed_tokens(case.ids[:, :, :-1])
    keep = torch.ones(P, G, T - 1, dtype=torch.bool)
    states = extend(language_model.model, prefix, embeds, keep)
    first = prefix.last_hidden[:, None, None].expand(P, G, 1, -1)
    hidden = torch.cat([first, Packing(keep).unpack(states, (P, G, T - 1))], dim=2)
    logits: Tensor = language_model.lm_head(hidden)
    return logits


@torch.no_grad()
def gap(case: Case) -> float:
    """How far our logits are from transformers', where a completion's token counts."""
    theirs = case.oracle().logits(case.clips, case.texts, case.ids, case.mask)
    kept = case.mask.bool()
    return float((our_logits(case) - theirs)[kept].abs().max())


def test_logits_are_the_own_forwards(case: Case) -> None:
    assert gap(case) <= TOLERANCE


def test_greedy_decoding_is_generate_token_for_token(case: Case) -> None:
    with torch.no_grad():
        found = decode(
            case.backbone.language_model,
            prefill_asked(case.backbone, case.ask()),
            group_size=1,
            max_new_tokens=24,
            eos_token_id=-1,
        )
    expected = case.oracle().generate(case.clips, case.texts, 24)
    assert found.token_ids[:, 0].tolist() == expected.tolist()
    assert len({tuple(row) for row in expected.tolist()}) == len(case.clips)


def test_an_answer_is_the_text_of_generate(case: Case) -> None:
    """`predict`'s own path, up to the end token."""
    answers = answer_batch(case.backbone, case.backbone.encode(case.clips), 8)
    question = prompts.instruction(case.backbone.answer_mode)
    rows = case.oracle().generate(case.clips, [question] * len(case.clips), 8)
    for answer, row in zip(answers, rows.tolist(), strict=True):
        ends = [i for i, token in enumerate(row) if token in case.backbone.eos_token_ids]
        kept = row[: ends[0] + 1] if ends else row
        assert answer.completion == case.backbone.decode(kept)


def _loss(logprobs: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    rewards = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 0.0], [0.5, 0.5, 2.0], [1.0, 2.0, 0.0]])
    advantages = group_advantages(rewards[: len(mask)].to(logprobs.dtype))
    loss, _ = grpo_loss(
        logprobs.flatten(0, 1),
        reference.flatten(0, 1),
        advantages.flatten(),
        mask.flatten(0, 1),
        kl_coef=1.0,  # on policy the other term sums to zero
    )
    return loss


def _logprobs(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0] * mask


def _reference(case: Case) -> Tensor:
    """Of a policy that has moved from its start, so that the KL term has a gradient."""
    start = case.backbone.frozen_copy()
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in start.module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        prefix = prefill_asked(start, case.ask())
        return score_completions(start.language_model, prefix, case.ids, case.mask)[0]


def _our_gradients(case: Case, reference: Tensor, **how: Any) -> tuple[Tensor, dict[str, Tensor]]:
    backbone = case.backbone
    backbone.module.zero_grad()
    prefix = prefill_asked(backbone, case.ask(), **how)
    scored = score_completions(backbone.language_model, prefix, case.ids, case.mask, **how)
    loss = _loss(scored[0], reference, case.mask)
    loss.backward()
    found = {n: p.grad.clone() for n, p in backbone.module.named_parameters() if p.grad is not None}
    return loss.detach(), found


# In float32 HumanOmni's gate and connector have gradients that are small differences of large sums
# (conftest.FLOAT32_TOLERANCES): up to 4.3e-5 off here, in float64 2.2e-7. All others: 1.7e-6.
CONNECTOR = ("model.bert_gate.", "model.bert_model.", "model.mm_projector.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_a_grpo_step_is_that_of_repeated_prompts(case: Case, dtype: torch.dtype) -> None:
    if dtype == torch.float64:
        case.double()
    reference = _reference(case)
    loss, ours = _our_gradients(case, reference)
    oracle = case.oracle()
    for name, parameter in oracle.model.named_parameters():
        parameter.requires_grad_(case.backbone.module.get_parameter(name).requires_grad)
    logits = oracle.logits(case.clips, case.texts, case.ids, case.mask)
    expected = _loss(_logprobs(logits, case.ids, case.mask), reference, case.mask)
    expected.backward()
    theirs = {n: p.grad for n, p in oracle.model.named_parameters() if p.grad is not None}

    assert ours.keys() == theirs.keys()
    assert float((loss - expected.detach()).abs() / expected.detach().abs()) <= 1e-6
    whole = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    for name, gradient in theirs.items():
        limit = 1e-6 if dtype == torch.float64 else 1e-4 if name.startswith(CONNECTOR) else 1e-5
        # the gradient of BERT's key biases is zero but for rounding
        least = 1e-5 if name.startswith(CONNECTOR) and name.endswith("key.bias") else 1e-6
        error = float((ours[name] - gradient).norm() / gradient.norm().clamp(min=least * whole))
        assert error <= limit, f"{name}: {error:.1e}"


def test_checkpointing_changes_no_bit(case: Case) -> None:
    reference = _reference(case)
    loss, plain = _our_gradients(case, reference)
    again, found = _our_gradients(case, reference, checkpointing=True)
    assert torch.equal(loss, again)
    assert plain.keys() == found.keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, found[name]), name


def test_label_probabilities_are_a_full_forwards(case: Case) -> None:
    backbone, labels = case.backbone, ["happy", "sad", "surprise"]
    backbone.answer_mode = "reasoned"
    texts = [completions.render(f"rationale {i}", "sad") for i in range(len(case.clips))]
    found = label_probabilities(backbone, backbone.encode(case.clips), texts, labels)
    question = prompts.instruction("reasoned")
    oracle = case.oracle()
    for i, clip in enumerate(case.clips):
        rows = [
            backbone.encode_completion(completions.render(f"rationale {i}", label))
            for label in labels
        ]
        T = max(map(len, rows))
        ids = torch.tensor([[[*row, *[0] * (T - len(row))] for row in rows]])
        mask = torch.tensor([[[1] * len(row) + [0] * (T - len(row)) for row in rows]])
        with torch.no_grad():
            logits = oracle.logits([clip], [question], ids, mask)
        sums = _logprobs(logits, ids, mask).double().sum(dim=2)[0]
        expected = dict(zip(labels, sums.softmax(0).tolist(), strict=True))
        assert found[i] == pytest.approx(expected, rel=1e-4)


def test_a_kept_prefix_goes_on_as_a_prompt_that_has_begun(case: Case) -> None:
    """What the audit reuses: the same as asking with the first ids of each completion."""
    backbone, begun = case.backbone, [[30 + i] * (i + 1) for i in range(len(case.clips))]
    features = backbone.encode(case.clips)
    with torch.no_grad():
        kept = prefill_asked(backbone, backbone.ask(features, case.texts))
        found = continue_prefix(backbone, kept, begun)
        expected = prefill_asked(backbone, backbone.ask(features, case.texts, begun))
    assert found.start.tolist() == expected.start.tolist()
    torch.testing.assert_close(found.last_hidden, expected.last_hidden, atol=1e-5, rtol=1e-5)


def test_a_clip_is_asked_the_same_alone_and_in_any_batch(case: Case) -> None:
    backbone, features = case.backbone, case.backbone.encode(case.clips)
    with torch.no_grad():
        together = prefill_prompts(backbone, features, case.texts)
        for i, text in enumerate(case.texts):
            alone = prefill_prompts(backbone, features[i : i + 1], [text])
            assert int(alone.start[0]) == int(together.start[i])
            torch.testing.assert_close(
                alone.last_hidden[0], together.last_hidden[i], atol=1e-5, rtol=1e-5
            )


# ---- the traps of Qwen2.5-Omni: silent, so each must fail the comparison above


def embed_wrongly(monkeypatch: pytest.MonkeyPatch, case: Case, change: Any) -> None:
    right = case.backbone.embed
    monkeypatch.setattr(case.backbone, "embed", lambda asked: change(right(asked)))


def far(case: Case) -> bool:
    return gap(case) > 100 * TOLERANCE


def test_trap_a_start_without_the_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    case = thinker_case()
    embed_wrongly(monkeypatch, case, lambda e: replace(e, start=e.mask.sum(1)))
    assert far(case)


def test_trap_positions_that_count_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    case = thinker_case()
    embed_wrongly(
        monkeypatch,
        case,
        lambda e: replace(e, positions=count_positions(e.embeds, e.mask).positions),
    )
    assert far(case)


@pytest.mark.parametrize("in_video", [False, True])
def test_trap_audio_in_video_said_otherwise_to_the_positions(
    in_video: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = thinker_case(BOTH, audio_in_video=in_video)
    model = case.backbone.model
    right = model.get_rope_index
    monkeypatch.setattr(
        model,
        "get_rope_index",
        lambda ids, *, use_audio_in_video, **kw: right(
            ids, use_audio_in_video=not use_audio_in_video, **kw
        ),
    )
    assert far(case)


def test_trap_audio_in_video_on_one_side_alone() -> None:
    case = thinker_case(BOTH, audio_in_video=True)
    oracle = case.oracle()
    case.backbone.media = replace(case.backbone.media, audio_in_video=False)
    case.make_oracle = lambda _: oracle
    assert far(case)


def test_trap_the_processors_seconds_per_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2_5OmniProcessor takes two frames a second, whatever the frames."""
    case = thinker_case()
    right = case.backbone.encode
    monkeypatch.setattr(
        case.backbone,
        "encode",
        lambda clips: [
            {**x, "seconds": torch.tensor([1.0])} if "video" in x else x for x in right(clips)
        ],
    )
    assert far(case)


def test_trap_features_in_the_order_of_windows() -> None:
    """Wrong for a clip larger than one window; a smaller one does not tell."""
    for shapes, wrong in (((LARGE, LARGE), True), (((84, 84, 1.0, 0.5),) * 2, False)):
        case = thinker_case(shapes)
        oracle, visual = case.oracle(), case.backbone.model.model.visual
        case.make_oracle = lambda _, oracle=oracle: oracle
        inputs: list[Tensor] = []
        visual.merger.register_forward_hook(lambda _m, _i, out, keep=inputs: keep.append(out))

        def in_windows(_module: Any, _inputs: Any, output: Any, keep: Any = inputs) -> Any:
            output.pooler_output = keep[-1].half().to(keep[-1].dtype)
            return output

        visual.register_forward_hook(in_windows)
        assert far(case) == wrong
        assert (gap(case) <= TOLERANCE) != wrong


def test_one_setting_decides_the_layout_of_ids_and_positions() -> None:
    apart, together = thinker_case(BOTH), thinker_case(BOTH, audio_in_video=True)
    first, second = (case.ask().tensors["input_ids"][0].tolist() for case in (apart, together))
    assert sorted(first) == sorted(second)
    assert first != second
