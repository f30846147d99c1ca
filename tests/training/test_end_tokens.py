"""Every end token of a model ends its completions: in rollouts, on held-out clips, in answers."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch

from r1omni import prompts
from r1omni.inference.greedy import answer_batch
from r1omni.model import HumanOmniProcessor
from r1omni.model.feature_store import FeatureBatch
from r1omni.model.prompting import prefill_prompts
from r1omni.model.sampling import decode
from r1omni.training.held_out import Watch
from r1omni.training.rollouts import sample_groups

ROOM = 9


@pytest.fixture(scope="module")
def large(tiny):
    """A model with large weights, whose greedy tokens vary, and its processor."""
    model = deepcopy(tiny[0])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model, tiny[1]


@pytest.fixture(scope="module")
def features(large):
    config, generator = large[0].config, torch.Generator().manual_seed(0)
    vision = (2, config.num_frames, config.patch_grid**2, config.vision_config.hidden_size)
    audio = (2, config.audio_tokens, config.audio_config.d_model)
    return FeatureBatch(
        torch.randn(vision, generator=generator),
        torch.randn(audio, generator=generator),
        torch.ones(2, dtype=torch.bool),
    )


@pytest.fixture(scope="module")
def prefix(large, features):
    model, processor = large
    question = prompts.instruction(model.config.answer_mode)
    with torch.no_grad():
        return prefill_prompts(model, processor, features, [question] * 2)


@pytest.fixture(scope="module")
def ending(large, prefix):
    """The processor, as if the third greedy token of each clip were an end token of the model."""
    model, processor = large
    free = decode(model, prefix, group_size=1, max_new_tokens=ROOM, eos_token_id=-1)
    first_two, third = free.token_ids[:, 0, :2], free.token_ids[:, 0, 2].tolist()
    assert not {*third, *processor.eos_token_ids} & {*first_two.flatten().tolist()}
    parts = processor.tokenizer, processor.gate_tokenizer, processor.media
    return HumanOmniProcessor(*parts, more_end_tokens=third), first_two


def test_answers_and_held_out_clips_end_there(large, features, ending):
    processor, first_two = ending
    expected = [processor.decode(ids.tolist()) for ids in first_two]
    answers = answer_batch(large[0], processor, features, ROOM)
    assert [(a.completion, a.finished, a.n_tokens) for a in answers] == [
        (text, True, 3) for text in expected
    ]
    store = SimpleNamespace(load=lambda _names: features)
    clips = [SimpleNamespace(clip_id=str(i)) for i in range(2)]
    watch = Watch(clips, store, large[0].config.answer_mode, ROOM, 1)
    assert watch._answers(large[0], processor, clips) == expected


def test_rollouts_end_there(large, prefix, ending):
    """Almost greedy: the tokens up to the end are learned from, and the text is without it."""
    processor, first_two = ending
    groups = sample_groups(
        large[0],
        processor,
        prefix,
        group_size=2,
        temperature=1e-4,
        max_new_tokens=ROOM,
        generators=[torch.Generator().manual_seed(i) for i in range(2)],
    )
    assert groups.finished.all()
    assert groups.completion_mask.tolist() == [[[1, 1, 1]] * 2] * 2
    assert groups.texts == [[processor.decode(ids.tolist())] * 2 for ids in first_two]
