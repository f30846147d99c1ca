"""One step's record from the parts, by hand."""

import pytest

from r1omni.training.joint import MeanWeights, Part, joint_metrics


def part(completions, tokens, scored, **metrics):
    return Part(
        {name.replace("_", "/", 1): value for name, value in metrics.items()},
        completions,
        tokens,
        MeanWeights(*scored),
        rows=[],
    )


def test_the_kl_weighs_by_what_was_scored_and_the_reward_by_everything():
    """Of the second rank's eight completions four were scored; of the third's none."""
    names = ("train_kl", "rollout_entropy", "rollout_logprob_gap", "reward_total")

    def told(*values):
        return dict(zip(names, values, strict=True))

    ranks = [
        [part(4, 40, (4, 40), **told(0.1, 1.0, 0.1, 1.0))],
        [part(8, 60, (4, 10), **told(0.3, 2.0, 0.7, 0.5))],
        [part(4, 10, (0, 0), **told(9.0, 9.0, 9.0, 2.0))],
    ]
    joint = joint_metrics(ranks)
    assert joint["train/kl"] == pytest.approx(0.2)  # (4 * 0.1 + 4 * 0.3) / 8
    assert joint["rollout/entropy"] == pytest.approx(1.2)  # (40 * 1 + 10 * 2) / 50
    assert joint["rollout/logprob_gap"] == pytest.approx(0.22)  # (40 * 0.1 + 10 * 0.7) / 50
    assert joint["reward/total"] == pytest.approx(1.0)  # (4 * 1 + 8 * 0.5 + 4 * 2) / 16


def test_where_nothing_was_scored_kl_and_entropy_are_zero():
    ranks = [[part(4, 40, (0, 0), train_kl=0.1, rollout_entropy=1.0)]]
    assert joint_metrics(ranks) == {"train/kl": 0.0, "rollout/entropy": 0.0}
