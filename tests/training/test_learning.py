"""It learns: four clips by heart under SFT, and a two-answer bandit under GRPO."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from noise import as_features

from r1omni import completions, prompts
from r1omni.corpora.clip import Clip
from r1omni.inference.greedy import answer_batch
from r1omni.machine.state_folders import TrainingPaths
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.training.engine import Engine
from r1omni.training.examples import Example, examples_from
from r1omni.training.rolling_out import Models, learn, roll_out
from r1omni.training.rollouts import SharedPrefixSampler, rollout_metrics
from r1omni.training.sft import train_supervised


def features_of(model, names):
    """Random features that depend on the clip's name only."""
    config = model.config
    vision, audio = [], []
    for name in names:
        generator = torch.Generator().manual_seed(sum(name.encode()))
        vision.append(
            torch.randn(
                config.num_frames,
                config.patch_grid**2,
                config.vision_config.hidden_size,
                generator=generator,
            )
        )
        audio.append(
            torch.randn(config.audio_tokens, config.audio_config.d_model, generator=generator)
        )
    return as_features(torch.stack(vision), torch.stack(audio))


def clip_named(name, label, rationale=None, split="train"):
    return Clip(
        clip_id=name,
        corpus="dfew",
        path=f"{name}.mp4",
        label=label,
        split=split,
        fold=1,
        subject=None,
        rationale=rationale,
        duration=1.0,
        fps=8.0,
        n_frames=8,
        has_audio=True,
        sha256=name,
    )


@pytest.fixture
def fresh(tiny):
    """A copy of the tiny backbone that a test may train."""
    backbone = HumanOmniBackbone(deepcopy(tiny.model), tiny.processor)
    backbone.freeze()
    return backbone


def sft_on(fresh, examples, params, folder, epochs):
    paths = TrainingPaths(folder / "checkpoint", folder / "training", folder)
    train_supervised(
        fresh,
        lambda names: features_of(fresh.model, names),
        examples,
        paths,
        sft=params.cold_start.model_copy(
            update={"epochs": epochs, "batch_size": len(examples), "lr": 3e-3}
        ),
        engine=params.engine,
        machine=params.machine.model_copy(update={"device": "cpu"}),
        log=lambda _step, _metrics: None,
        recipe="test",
    )


def test_four_clips_are_learned_by_heart(fresh, params, tmp_path):
    labels = {"a": "happy", "b": "sad", "c": "angry", "d": "neutral"}
    clips = [clip_named(name, label, f"the voice {name}") for name, label in labels.items()]
    sft_on(fresh, examples_from(clips, "reasoned"), params, tmp_path, epochs=40)
    fresh.answer_mode = "reasoned"
    answers = answer_batch(fresh, features_of(fresh.model, list(labels)), 32)
    expected = [completions.render(f"the voice {name}", label) for name, label in labels.items()]
    assert [answer.completion for answer in answers] == expected


def test_a_two_answer_bandits_reward_rises(fresh, params, tmp_path):
    model = fresh.model
    question = prompts.instruction("reasoned")
    examples = [
        Example("a", question, completions.render("it", label), label) for label in ("happy", "sad")
    ]
    sft_on(fresh, examples, params, tmp_path, epochs=60)
    grpo = params.grpo.model_copy(
        update={"group_size": 8, "max_new_tokens": 16, "lr": 3e-4, "kl_coef": 0.0}
    )
    models = Models(fresh, nullcontext(fresh.frozen_copy()), SharedPrefixSampler(fresh))
    trainer = Engine(
        model,
        params.machine.model_copy(update={"device": "cpu"}),
        dtype="fp32",
        lr=grpo.lr,
        schedule=lambda _step: 1.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
    )
    batch = [clip_named("a", "sad")] * 4
    rewards = []
    for step in range(1, 21):
        rolled = roll_out(models, features_of(model, ["a"] * 4), batch, grpo, step, range(4))
        trainer.backward(learn(models, rolled, grpo).loss)
        trainer.update()
        rewards.append(rollout_metrics(rolled.completions, rolled.scores)["reward/accuracy"])
    assert 0.2 < rewards[0] < 0.8
    assert sum(rewards[-3:]) / 3 > rewards[0] + 0.3


def test_examples_need_a_rationale_where_the_mode_is_reasoned():
    with pytest.raises(ValueError, match="clip-1: has no rationale"):
        examples_from([clip_named("clip-1", "happy")], "reasoned")


def test_examples_leave_test_clips_out():
    clips = [clip_named("x", "happy", split="test"), clip_named("y", "sad")]
    assert [e.clip_id for e in examples_from(clips, "direct")] == ["y"]
    assert [e.completion for e in examples_from(clips, "direct")] == ["sad"]
