"""Every end token of a model ends its completions: in rollouts, on held-out clips, in answers."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from noise import noise_features

from r1omni import prompts
from r1omni.inference.greedy import answer_batch
from r1omni.model import HumanOmniProcessor
from r1omni.model.backbone import prefill_prompts
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.model.sampling import decode, uniform_draws
from r1omni.training.held_out import HeldOutSet
from r1omni.training.rollouts import SharedPrefixSampler, decode_texts

ROOM = 9


@pytest.fixture(scope="module")
def large(tiny):
    """A backbone with large weights, whose greedy tokens vary."""
    model = deepcopy(tiny.model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return HumanOmniBackbone(model, tiny.processor)


@pytest.fixture(scope="module")
def features(large):
    return noise_features(large.model.config, 2, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def prefix(large, features):
    question = prompts.instruction(large.answer_mode)
    with torch.no_grad():
        return prefill_prompts(large, features, [question] * 2)


@pytest.fixture(scope="module")
def ending(large, prefix):
    """The backbone, as if the third greedy token of each clip were an end token of the model."""
    model, processor = large.model, large.processor
    free = decode(model, prefix, group_size=1, max_new_tokens=ROOM, eos_token_id=-1)
    first_two, third = free.token_ids[:, 0, :2], free.token_ids[:, 0, 2].tolist()
    assert not {*third, *processor.eos_token_ids} & {*first_two.flatten().tolist()}
    parts = processor.tokenizer, processor.gate_tokenizer, processor.media
    return HumanOmniBackbone(model, HumanOmniProcessor(*parts, more_end_tokens=third)), first_two


def test_answers_and_held_out_clips_end_there(features, ending):
    backbone, first_two = ending
    expected = [backbone.decode(ids.tolist()) for ids in first_two]
    answers = answer_batch(backbone, features, ROOM)
    assert [(a.completion, a.finished, a.n_tokens) for a in answers] == [
        (text, True, 3) for text in expected
    ]
    store = SimpleNamespace(load=lambda _names: features)
    clips = [SimpleNamespace(clip_id=str(i)) for i in range(2)]
    watch = HeldOutSet(clips, store, backbone.answer_mode, ROOM, 1)
    assert watch._answers(backbone, clips) == expected


def test_rollouts_end_there(prefix, ending):
    """Almost greedy: the tokens up to the end are learned from, and the text is without it."""
    backbone, first_two = ending
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    completions = SharedPrefixSampler(backbone).sample(
        None,
        prefix,
        group_size=2,
        temperature=1e-4,
        max_new_tokens=ROOM,
        draws=uniform_draws(generators, 2, ROOM),
    )
    assert completions.finished.all()
    assert completions.mask.tolist() == [[[1, 1, 1]] * 2] * 2
    expected = [[backbone.decode(ids.tolist())] * 2 for ids in first_two]
    assert decode_texts(backbone, completions) == expected
