"""Modality dropout: what a step hides, and what is learned of a clip whose half is missing."""

from dataclasses import replace

import pytest
import torch
import toy

from r1omni.claims import claims
from r1omni.model.absence import blank_features, blanked
from r1omni.model.feature_store import FeatureStore
from r1omni.training import sft as sft_stage
from r1omni.training.checkpoints import load_parent
from r1omni.training.examples import Example, chosen, without_missing
from r1omni.training.modality_dropout import ModalityDropout, as_shown, modality_dropout
from r1omni.training.reference import CopiedReference
from r1omni.training.rolling_out import Models, roll_out
from r1omni.training.rollouts import SharedPrefixSampler
from r1omni.training_config import DropoutParams


def test_what_is_missing_depends_on_seed_step_and_place_alone():
    dropout = ModalityDropout(0.2, 0.3, seed=1)
    heard = [True] * 1000
    whole = dropout.missing(5, range(1000), heard)
    assert dropout.missing(5, range(500, 1000), heard[:500]) == whole[500:]  # another rank's share
    assert dropout.missing(6, range(1000), heard) != whole
    assert ModalityDropout(0.2, 0.3, seed=2).missing(5, range(1000), heard) != whole
    drawn = [side for step in range(20) for side in dropout.missing(step, range(1000), heard)]
    shares = [drawn.count(side) / len(drawn) for side in ("face", "voice", None)]
    assert shares == pytest.approx([0.2, 0.3, 0.5], abs=0.02)


def test_shares_of_0_and_1_are_never_and_always():
    for video, audio, expected in ((0.0, 0.0, {None}), (1.0, 0.0, {"face"}), (0.0, 1.0, {"voice"})):
        assert set(ModalityDropout(video, audio, 1).missing(1, range(99), [True] * 99)) == expected


def test_a_clip_without_sound_keeps_its_picture():
    assert ModalityDropout(1.0, 0.0, 1).missing(1, range(2), [True, False]) == ["face", None]
    assert ModalityDropout(0.0, 1.0, 1).missing(1, range(2), [True, False]) == ["voice", "voice"]


def test_a_hidden_side_is_what_the_towers_make_of_darkness_or_silence(world):
    backbone = load_parent(world / "parent")
    (features,) = FeatureStore([world / "features"]).load(["clip-1"])
    blank = blank_features(backbone)
    assert blank.keys() == features.keys()
    for side, hidden, kept in (("voice", "audio", "vision"), ("face", "vision", "audio")):
        found = blanked(features, side, blank)
        assert torch.equal(found[hidden], blank[hidden])
        assert torch.equal(found[kept], features[kept])
        assert not torch.equal(found[hidden], features[hidden])
    assert blanked(features, None, blank) is features


def test_without_dropout_no_tower_runs(world, monkeypatch):
    backbone = load_parent(world / "parent")
    monkeypatch.setattr(type(backbone), "encode", lambda *_: pytest.fail("a tower ran"))
    none = modality_dropout(backbone, DropoutParams(video=0.0, audio=0.0), 1)
    assert none.missing(1, range(3), [True] * 3) == [None] * 3


def test_the_rationale_of_an_example_says_what_is_missing():
    text = "<think>The brows are raised; the voice is loud.</think>\n<answer>surprise</answer>"
    example = Example("a", "?", text, "surprise")
    deaf, blind = (without_missing(example, side) for side in ("voice", "face"))
    assert deaf.completion == (
        "<think>The brows are raised; I hear nothing.</think>\n<answer>surprise</answer>"
    )
    assert {claim.side for claim in claims(blind.completion)} == {"voice"}
    assert (deaf.missing, blind.missing) == ("voice", "face")
    assert without_missing(example, None) is example
    bare = replace(example, completion="surprise")  # label SFT's
    assert without_missing(bare, "voice") == replace(bare, missing="voice")


def test_sft_learns_from_the_features_that_are_left_and_from_the_honest_text(
    world, tmp_path, monkeypatch
):
    batches = []
    whole = sft_stage._batch_loss

    def watched(backbone, load, part, dropout, **options):
        features = dropout.hide(load([e.clip_id for e in part]), [e.missing for e in part])
        batches.append((part, features, dropout.blank))
        return whole(backbone, load, part, dropout, **options)

    monkeypatch.setattr(sft_stage, "_batch_loss", watched)
    sft = toy.sft_params(modality_dropout=DropoutParams(video=0.0, audio=1.0))
    toy.train_sft(world, tmp_path, toy.machine_params(processes=1), sft, lambda *_: None)
    assert len(batches) == 5  # 7 clips, 2 epochs, 3 a step
    for part, features, blank in batches:
        for example, clip in zip(part, features, strict=True):
            assert "I hear nothing" in example.completion
            assert torch.equal(clip["audio"], blank["audio"])


def test_grpo_samples_without_the_missing_side_and_tells_the_rewards(world):
    policy = load_parent(world / "parent")
    seen = []
    rewards = toy.watching_rewards(seen)
    dropout = modality_dropout(policy, DropoutParams(video=0.5, audio=0.5), seed=1)
    models = Models(policy, CopiedReference(policy), SharedPrefixSampler(policy),
                    rewards=rewards, dropout=dropout)  # fmt: skip
    clips = [toy.clip_at(i) for i in (1, 2, 4, 5)]  # with sound
    features = FeatureStore([world / "features"]).load([clip.clip_id for clip in clips])
    rolled = roll_out(models, features, clips, toy.grpo_params(), 3, [8, 9, 10, 11])
    missing = dropout.missing(3, [8, 9, 10, 11], [clip.has_audio for clip in clips])
    assert {"face", "voice"} <= set(missing)
    for media, clip, side in zip(rolled.prompts.media, clips, missing, strict=True):
        hidden = {"voice": "audio", "face": "vision"}.get(side)
        assert hidden is None or torch.equal(media[hidden], dropout.blank[hidden])
        shown = next(known for known in seen if known.clip_id == clip.clip_id)
        assert shown == as_shown(clip, side)
        assert (shown.n_frames == 0) == (side == "face")
        assert shown.has_audio == (side != "voice" and clip.has_audio)
    assert list(rolled.clips) == clips  # the table names them as they are


def test_a_smaller_cold_start_is_part_of_a_larger_one_and_keeps_its_order():
    examples = [Example(f"clip-{i}", "?", "x", "happy") for i in range(50)]
    few, more = chosen(examples, 10, seed=1), chosen(examples, 30, seed=1)
    assert len(few) == 10
    assert set(few) < set(more)
    assert more == [example for example in examples if example in set(more)]
    assert set(chosen(examples, 10, seed=2)) != set(few)
    assert chosen(examples, 0, seed=1) == []
    with pytest.raises(ValueError, match=r"cold_start\.clips: 51, but only 50 training clips"):
        chosen(examples, 51, seed=1)


def test_a_cold_start_of_no_clips_is_its_parent_asked_for_rationales(world, tmp_path):
    toy.train_sft(world, tmp_path, toy.machine_params(processes=1), toy.sft_params(clips=0),
                  lambda *_: None)  # fmt: skip
    made = load_parent(tmp_path / "checkpoint")
    assert made.answer_mode == "reasoned"
    before = load_parent(world / "parent").module.state_dict()
    for name, tensor in made.module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
