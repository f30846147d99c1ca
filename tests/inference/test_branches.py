"""Labels weighed behind several rationales: the prompt once, every rationale once, every label."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from noise import noise_features

from r1omni import prompts
from r1omni.completions import render
from r1omni.evaluation.audit.answerer import Media
from r1omni.evaluation.audit.backbone_answerer import BackboneAnswerer
from r1omni.inference.branches import label_logprobs
from r1omni.inference.probabilities import label_probabilities
from r1omni.model.backbone import prefill_prompts
from r1omni.model.humanomni.backbone import HumanOmniBackbone
from r1omni.model.sampling import score_completions

LABELS = ("happy", "sad", "angry", "surprise")


@pytest.fixture(scope="module")
def backbone(tiny):
    model = copy.deepcopy(tiny.model)
    model.config.answer_mode = "reasoned"
    with torch.no_grad():
        for parameter in model.lm_head.parameters():
            parameter.mul_(8.0)  # a random head is nearly indifferent
    return HumanOmniBackbone(model, tiny.processor)


@pytest.fixture(scope="module")
def features(backbone):
    torch.manual_seed(3)
    return noise_features(backbone.model.config, 3)


class Store:
    """Features by clip id."""

    def __init__(self, features):
        self.features = dict(zip("abc", features, strict=True))

    def load(self, ids):
        return [self.features[clip_id] for clip_id in ids]


def prefix_of(backbone, features):
    question = prompts.instruction(backbone.answer_mode)
    return prefill_prompts(backbone, features, [question] * len(features))


@torch.no_grad()
def test_the_branches_weigh_labels_as_the_repeated_prompts_do(backbone, features):
    rationales = [
        ["a voice", None, "The brows are raised, head bowed; the voice is low and soft."],
        ["The mouth smiles.", "The face is at rest; I hear a loud voice.", "x"],
        [None, "no", "The eyes are wide"],
    ]
    found = label_logprobs(backbone, prefix_of(backbone, features), rationales, LABELS)
    assert found.shape == (3, 3, 4)
    for p, texts in enumerate(rationales):
        for g, text in enumerate(texts):
            if text is None:
                assert found[p, g].tolist() == pytest.approx([-np.log(4)] * 4)
                continue
            completion = [render(text, "happy")]
            [slow] = label_probabilities(backbone, [features[p]], completion, LABELS)
            expected = [slow[label] for label in LABELS]
            assert max(expected) > 0.26  # not indifferent
            assert np.exp(found[p, g]).tolist() == pytest.approx(expected, abs=2e-5)


@torch.no_grad()
def test_direct_answers_have_no_rationale(backbone, features):
    direct = copy.copy(backbone)
    direct.model = copy.copy(backbone.model)
    direct.model.config = copy.deepcopy(backbone.model.config)
    direct.answer_mode = "direct"
    found = label_logprobs(direct, prefix_of(direct, features[:1]), [[None, "a voice"]], LABELS)
    [slow] = label_probabilities(direct, features[:1], [""], LABELS)
    for row in found[0]:
        assert np.exp(row).tolist() == pytest.approx([slow[label] for label in LABELS], abs=2e-5)


@pytest.fixture(scope="module")
def answerer(backbone, features):
    return BackboneAnswerer(backbone, Store(features), max_new_tokens=8, temperature=50.0, seed=1)


def test_absent_media_are_darkness_and_silence(answerer, features):
    seen, dark, silent = answerer._features([Media("a", "b"), Media(None, "a"), Media("a", None)])
    assert torch.equal(seen["vision"], features[0]["vision"])
    assert torch.equal(seen["audio"], features[1]["audio"])
    assert torch.equal(dark["audio"], features[0]["audio"])
    assert torch.equal(silent["vision"], features[0]["vision"])
    assert not torch.equal(dark["vision"], silent["vision"])
    assert dark["vision"].dtype == silent["audio"].dtype == torch.float16


def test_samples_depend_neither_on_the_batch_nor_on_the_place(answerer):
    a, b = Media("a", "a"), Media("b", "b")
    first, second = answerer.sample([a, b], 3)
    assert len(set(first)) > 1
    assert answerer.sample([b], 3) == [second]
    assert answerer.sample([b, a], 3)[1] == first


@torch.no_grad()
def test_tokens_cover_the_completion_and_have_its_log_probability(answerer, backbone, features):
    texts = ["<think>raised brows</think>\n<answer>sad</answer>", "<think>x</think>"]
    found = answerer.token_logprobs([Media("a", "a"), Media("b", "b")], texts)
    for text, tokens, clip in zip(texts, found, features, strict=False):
        assert tokens[0].start == 0 and tokens[-1].end == len(text)
        assert all(t.end == after.start for t, after in pairwise(tokens))
        ids = torch.tensor([[backbone.encode_completion(text)]])
        whole, _ = score_completions(
            backbone.language_model, prefix_of(backbone, [clip]), ids, torch.ones_like(ids)
        )
        total = float(whole[0, 0, :-1].sum())
        assert sum(t.logprob for t in tokens) == pytest.approx(total, abs=1e-4)
