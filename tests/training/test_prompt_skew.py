"""One clip, one question: SFT, GRPO, the held-out watch, evaluation and `predict` ask the same."""

from copy import deepcopy

import pytest
from clip_files import LIMITS, write_clip
from test_learning import clip_named, features_of

from r1omni.inference.answer import Answer, answer_files
from r1omni.inference.greedy import answer_batch
from r1omni.machine.state_folders import TrainingPaths
from r1omni.media import decode
from r1omni.model import HumanOmniForConditionalGeneration as HumanOmni
from r1omni.training.checkpoints import freeze
from r1omni.training.grpo import Models, roll_out
from r1omni.training.held_out import Watch
from r1omni.training.sft import examples_from, train_supervised

CLIP = clip_named("a", "happy", "the voice is loud")


class Store:
    """Features made from a clip's name."""

    def __init__(self, model):
        self.model = model

    def load(self, names):
        return features_of(self.model, names)


def by_sft(model, processor, params, folder):
    machine = params.machine.model_copy(update={"device": "cpu", "processes": 1})
    train_supervised(
        model,
        processor,
        Store(model).load,
        examples_from([CLIP], model.config.answer_mode),
        TrainingPaths(folder / "checkpoint", folder / "training", folder),
        sft=params.cold_start.model_copy(update={"epochs": 1, "batch_size": 1}),
        engine=params.engine,
        machine=machine,
        log=lambda _step, _metrics: None,
        recipe="test",
    )


def by_grpo(model, processor, params, folder):
    models = Models(model, deepcopy(model).requires_grad_(False), processor)
    grpo = params.grpo.model_copy(update={"group_size": 2, "max_new_tokens": 2})
    roll_out(models, features_of(model, ["a"]), [CLIP], grpo, 1, [0])


def by_watch(model, processor, params, folder):
    Watch([CLIP], Store(model), model.config.answer_mode, 2, 1).look(model, processor)


def by_evaluation(model, processor, params, folder):
    answer_batch(model, processor, features_of(model, ["a"]), 2)


def by_predict(model, processor, params, folder):
    write_clip(folder / "a.mp4")
    said = answer_files(
        [str(folder / "a.mp4")],
        model,
        processor,
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
        model = deepcopy(tiny[0])
        model.config.answer_mode = mode
        freeze(model)
        (tmp_path / road.__name__).mkdir()
        asked.clear()
        road(model, tiny[1], params, tmp_path / road.__name__)
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
    media = tiny[1].media
    clip = decode(write_clip(tmp_path / "b.mp4"), media.num_frames, media.sampling_rate)
    inputs = tiny[1](question, clip.frames, clip.waveform)
    expected = (tuple(inputs["input_ids"][0].tolist()), tuple(inputs["gate_input_ids"][0].tolist()))
    assert seen == {road.__name__: {expected} for road in ROADS[mode]}
    said = tiny[1].tokenizer.decode([i for i in expected[0] if i >= 0])
    assert said.endswith(f"{question}<|im_end|>\n<|im_start|>assistant\n")
