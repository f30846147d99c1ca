"""One clip, one question: SFT, GRPO, the held-out watch, evaluation and `predict` ask the same."""

from contextlib import nullcontext
from copy import deepcopy

import pytest
from clip_files import LIMITS, write_clip
from test_learning import clip_named, features_of

from r1omni.inference.answer import Answer, answer_files
from r1omni.inference.greedy import answer_batch
from r1omni.machine.state_folders import TrainingPaths
from r1omni.media import decode
from r1omni.model import HumanOmniForConditionalGeneration as HumanOmni
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.training.examples import examples_from
from r1omni.training.held_out import HeldOutSet
from r1omni.training.rolling_out import Models, roll_out
from r1omni.training.rollouts import SharedPrefixSampler
from r1omni.training.sft import train_supervised

CLIP = clip_named("a", "happy", "the voice is loud")


class Store:
    """Features made from a clip's name."""

    def __init__(self, model):
        self.model = model

    def load(self, names):
        return features_of(self.model, names)


def by_sft(backbone, params, folder):
    machine = params.machine.model_copy(update={"device": "cpu", "processes": 1})
    train_supervised(
        backbone,
        Store(backbone.model).load,
        examples_from([CLIP], backbone.answer_mode),
        TrainingPaths(folder / "checkpoint", folder / "training", folder),
        sft=params.cold_start.model_copy(update={"epochs": 1, "batch_size": 1}),
        engine=params.engine,
        machine=machine,
        log=lambda _step, _metrics: None,
        recipe="test",
    )


def by_grpo(backbone, params, folder):
    sampler = SharedPrefixSampler(backbone)
    models = Models(backbone, nullcontext(backbone.frozen_copy()), sampler)
    grpo = params.grpo.model_copy(update={"group_size": 2, "max_new_tokens": 2})
    roll_out(models, features_of(backbone.model, ["a"]), [CLIP], grpo, 1, [0])


def by_watch(backbone, params, folder):
    HeldOutSet([CLIP], Store(backbone.model), backbone.answer_mode, 2, 1).evaluate(backbone)


def by_evaluation(backbone, params, folder):
    answer_batch(backbone, features_of(backbone.model, ["a"]), 2)


def by_predict(backbone, params, folder):
    write_clip(folder / "a.mp4")
    said = answer_files(
        [str(folder / "a.mp4")],
        backbone,
        labels=["happy", "sad"],
        batch_size=1,
        max_new_tokens=2,
        limits=LIMITS,
    )
    assert all(isinstance(answer, Answer) for answer in said)


ROADS = {
    "reasoned": (by_sft, by_grpo, by_watch, by_evaluation, by_predict),
    "direct": (by_sft, by_watch, by_evaluation, by_predict),
}


@pytest.mark.parametrize("mode", ROADS)
def test_every_road_asks_a_clip_the_same_question(tiny, params, tmp_path, monkeypatch, mode):
    """The ids of prompt and gate as the model gets them, against the processor's own call."""
    asked = []
    embed = HumanOmni.embed_prompt

    def spy(self, input_ids, attention_mask=None, **given):
        asked.append(
            (
                input_ids[0][attention_mask[0].bool()].tolist(),
                given["gate_input_ids"][0][given["gate_attention_mask"][0].bool()].tolist(),
            )
        )
        return embed(self, input_ids, attention_mask, **given)

    monkeypatch.setattr(HumanOmni, "embed_prompt", spy)
    seen = {}
    for road in ROADS[mode]:
        backbone = HumanOmniBackbone(deepcopy(tiny.model), tiny.processor)
        backbone.answer_mode = mode
        backbone.freeze()
        (tmp_path / road.__name__).mkdir()
        asked.clear()
        road(backbone, params, tmp_path / road.__name__)
        assert asked, f"{road.__name__} asked nothing"
        seen[road.__name__] = {tuple(map(tuple, question)) for question in asked}
    words = {
        "reasoned": "is the most obvious to you?\nOutput the thinking process in <think> </think> "
        "and final emotion in <answer> </answer> tags.",
        "direct": "is the most obvious to you?",
    }[mode]
    question = (
        "As an emotional recognition expert; throughout the video, which emotion conveyed by the "
        f"characters {words}"
    )
    media = tiny.processor.media
    clip = decode(write_clip(tmp_path / "b.mp4"), media.num_frames, media.sampling_rate)
    inputs = tiny.processor(question, clip.frames, clip.waveform)
    expected = (tuple(inputs["input_ids"][0].tolist()), tuple(inputs["gate_input_ids"][0].tolist()))
    assert seen == {road.__name__: {expected} for road in ROADS[mode]}
    said = tiny.processor.tokenizer.decode([i for i in expected[0] if i >= 0])
    assert said.endswith(f"{question}<|im_end|>\n<|im_start|>assistant\n")
