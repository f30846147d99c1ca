"""What micro-batches, prompts that run again and gradient checkpointing save, counted."""

import gc
import weakref
from collections import Counter

import pytest
import torch
import toy

from r1omni.corpora.clip import read_manifest
from r1omni.model.feature_store import FeatureStore
from r1omni.training import rolling_out as stage
from r1omni.training.checkpoints import load_parent
from r1omni.training.engine import Engine
from r1omni.training.reference import CopiedReference
from r1omni.training.rolling_out import Models
from r1omni.training.rollouts import SharedPrefixSampler
from r1omni.training.step import learn_share


class Watched(Engine):
    """An engine that notes what is alive, and what runs, in each of its backward passes."""

    def backward(self, loss, weight=1.0, clips=(), broken=()):
        gc.collect()
        self.alive.append(sum(ref() is not None for ref in self.prefixes))
        before = Counter(self.ran)
        super().backward(loss, weight, clips, broken)
        self.again += self.ran["layer"] - before["layer"]


def step_of(world, monkeypatch, *, prefix="reuse", kl_coef=0.04, seed=1, **machine):
    """One GRPO step of four clips, watched: (engine, metrics of its parts)."""
    params = toy.machine_params(processes=1, **machine)
    grpo = toy.grpo_params(clips_per_step=4, kl_coef=kl_coef, seed=seed)
    policy = load_parent(world / "parent")
    sampler = SharedPrefixSampler(policy)
    models = Models(policy, CopiedReference(policy), sampler, prefix, params.gradient_checkpointing)
    trainer = Watched(
        policy.module,
        params,
        dtype="fp32",
        lr=1e-3,
        schedule=lambda _: 1.0,
        weight_decay=0.0,
        max_grad_norm=1.0,
    )
    trainer.alive, trainer.prefixes, trainer.ran, trainer.again = [], [], Counter(), 0

    def watched(name):
        run = getattr(stage, name)

        def noted(*args, **kwargs):
            trainer.ran[name] += 1
            found = run(*args, **kwargs)
            if name == "prefill_asked":
                trainer.prefixes.append(weakref.ref(found.keys[0]))
            return found

        monkeypatch.setattr(stage, name, noted)

    for name in ("prefill_asked", "uniform_draws"):
        watched(name)
    layer = policy.language_model.model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: trainer.ran.update(["layer"]))
    clips = read_manifest(world / "manifest.parquet")[:4]
    parts = learn_share(
        models, trainer, FeatureStore([world / "features"]), lambda _: clips, grpo, 1
    )
    return trainer, parts


def test_each_micro_batch_is_decoded_by_itself_and_gone_before_the_next(world, monkeypatch):
    trainer, parts = step_of(world, monkeypatch, micro_batch_size=1)
    assert len(parts) == 4
    assert trainer.ran["uniform_draws"] == trainer.ran["prefill_asked"] == 4
    assert trainer.alive == [1, 1, 1, 1]


def test_with_recompute_all_are_decoded_at_once_and_no_prefix_outlives_it(world, monkeypatch):
    trainer, parts = step_of(world, monkeypatch, micro_batch_size=1, prefix="recompute")
    assert len(parts) == 4
    assert trainer.ran["uniform_draws"] == trainer.ran["prefill_asked"] == 1
    assert trainer.alive == [0, 0, 0, 0]
    assert all(part.metrics["time/sample"] > 0 for part in parts)


@pytest.mark.parametrize("prefix", ["reuse", "recompute"])
def test_checkpointing_runs_every_layer_again_in_the_backward_pass(world, monkeypatch, prefix):
    plain, _ = step_of(world, monkeypatch, prefix=prefix)
    assert plain.again == 0
    monkeypatch.undo()
    saving, _ = step_of(world, monkeypatch, prefix=prefix, gradient_checkpointing=True)
    assert saving.again == 2  # the prompt's and the completions' pass through the layer
    for ours, theirs in zip(saving._mean, plain._mean, strict=True):
        assert torch.equal(ours, theirs)


def test_a_micro_batch_is_as_long_as_its_own_longest_completion(world, monkeypatch):
    trainer, parts = step_of(world, monkeypatch, micro_batch_size=1, prefix="recompute")
    assert sum(part.completions for part in parts) == 4 * toy.grpo_params().group_size
    together, (whole,) = step_of(world, monkeypatch)
    assert sum(part.tokens for part in parts) == whole.tokens
    for ours, theirs in zip(trainer._mean, together._mean, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_without_a_kl_term_a_micro_batch_of_equal_rewards_costs_no_backward_pass(
    world, monkeypatch
):
    for seed in range(1, 20):
        trainer, parts = step_of(world, monkeypatch, micro_batch_size=1, kl_coef=0.0, seed=seed)
        flat = [part.metrics["rollout/zero_variance_groups"] == 1.0 for part in parts]
        monkeypatch.undo()
        if any(flat) and not all(flat):
            break
    assert any(flat) and not all(flat)
    assert [part.scored.completions > 0 for part in parts] == [not equal for equal in flat]
    assert [part.metrics["time/policy"] > 0 for part in parts] == [not equal for equal in flat]
    together, _ = step_of(world, monkeypatch, kl_coef=0.0, seed=seed)
    for ours, theirs in zip(trainer._mean, together._mean, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
