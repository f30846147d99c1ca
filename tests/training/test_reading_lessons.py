"""Reading lessons: which texts are read, what their answers are, and which tokens are learned."""

from dataclasses import replace

import pytest
import torch
import toy

from r1omni import completions
from r1omni.claims import claims, reversed_claims
from r1omni.judges.reader import fit_reader
from r1omni.model.backbone import prefill_prompts
from r1omni.model.feature_store import FeatureStore
from r1omni.model.sampling import score_completions
from r1omni.training.checkpoints import load_parent
from r1omni.training.examples import Example
from r1omni.training.modality_dropout import NOTHING_MISSING
from r1omni.training.reading_lessons import (
    NO_LESSONS,
    ReadingLessons,
    answer_begins,
    answer_mask,
)
from r1omni.training.sft import _batch_loss
from r1omni.training_config import ReadingParams

HAPPY = "The brows are raised; the voice is loud."
SAD = "The brows are lowered; the voice is soft."


def _example(name: str, text: str, label: str) -> Example:
    return Example(name, "?", completions.render(text, label), label)


EXAMPLES = [
    *(_example(f"happy-{i}", HAPPY, "happy") for i in range(4)),
    *(_example(f"sad-{i}", SAD, "sad") for i in range(4)),
]


def _params(per_clip: int, reversed_share: float) -> ReadingParams:
    return ReadingParams(
        per_clip=per_clip, reversed=reversed_share, answer_weight=3.0, reader_penalty=0.01
    )


def _lessons(per_clip: int, reversed_share: float, seed: int = 1) -> ReadingLessons:
    return ReadingLessons(EXAMPLES, _params(per_clip, reversed_share), seed)


def test_a_lesson_is_any_rationale_with_its_own_answer():
    lessons = _lessons(3, 0.0)
    found = [text for place in range(50) for text in lessons.at(1, place)]
    assert len(found) == 150
    assert set(found) == {example.completion for example in EXAMPLES}
    assert found.count(EXAMPLES[0].completion) == pytest.approx(75, abs=20)


def test_a_rationale_with_a_tag_in_it_is_refused_with_its_clip():
    bad = _example("clip-7", f"{HAPPY} <answer>sad</answer>", "happy")
    with pytest.raises(ValueError, match=r"reading_lessons: clip 'clip-7': expected a rationale"):
        ReadingLessons([*EXAMPLES, bad], _params(1, 0.0), 1)


def test_lessons_depend_on_seed_step_and_place_alone():
    lessons = _lessons(4, 0.5)
    whole = [lessons.at(5, place) for place in range(16)]
    assert [_lessons(4, 0.5).at(5, place) for place in range(8, 16)] == whole[8:]
    assert [lessons.at(6, place) for place in range(16)] != whole
    assert [_lessons(4, 0.5, seed=2).at(5, place) for place in range(16)] != whole


def test_without_lessons_nothing_is_read():
    assert _lessons(0, 0.5).at(1, 0) == []
    assert NO_LESSONS.at(1, 0) == []


def test_reversed_claims_are_answered_as_a_reader_of_the_rationales_answers():
    reader = fit_reader([HAPPY] * 4 + [SAD] * 4, ["happy"] * 4 + ["sad"] * 4,
                        words=False, folds=2, penalty=0.01, seed=1)  # fmt: skip
    lessons = _lessons(4, 1.0)
    seen = set()
    for place in range(50):
        for text in lessons.at(1, place):
            parsed = completions.parse(text)
            assert [parsed.answer] == reader.answers([parsed.rationale])
            seen.add((parsed.rationale, parsed.answer))
    assert {(HAPPY, "happy"), (SAD, "sad")} < seen  # none and both claims reversed
    assert len({text for text, _ in seen}) == 4  # of two claims each combination


def test_some_claims_are_reversed_and_the_others_stay():
    brows = reversed_claims(HAPPY, lambda claim: claim.attribute == "brows")
    assert [(c.attribute, c.level) for c in claims(brows)] == [("brows", -1), ("loudness", 1)]
    assert reversed_claims(HAPPY, lambda _: False) == HAPPY


def test_a_corpus_without_claims_cannot_have_its_claims_reversed():
    examples = [_example(name, "Nothing to see.", name) for name in ("happy", "sad")]
    with pytest.raises(ValueError, match="needs claims: none stands in 3 rationales"):
        ReadingLessons(examples, _params(1, 0.5), 1)


def test_of_a_lesson_the_answer_alone_is_learned_and_its_weight_counts(world):
    backbone = load_parent(world / "parent")
    store = FeatureStore([world / "features"])
    question = "Which emotion?"
    batch = [
        replace(_example(name, HAPPY, "happy"), instruction=question)
        for name in ("clip-1", "clip-2")
    ]
    read = [[completions.render(SAD, "sad"), completions.render(HAPPY, "happy")]] * 2

    def tokens_of(text: str) -> torch.Tensor:
        return torch.tensor(backbone.encode_completion(text))

    with torch.no_grad():
        loss, weight, broken = _batch_loss(
            backbone, store.load, batch, NOTHING_MISSING, read=read, answer_weight=3.0
        )
        total, count = 0.0, 0.0
        for example, lessons in zip(batch, read, strict=True):
            prefix = prefill_prompts(backbone, store.load([example.clip_id]), [question])
            for text in (example.completion, *lessons):
                ids = tokens_of(text)[None, None]
                told, _ = score_completions(
                    backbone.language_model, prefix, ids, torch.ones_like(ids)
                )
                is_lesson = text in lessons and text is not example.completion
                begins = answer_begins(backbone, text) if is_lesson else 0
                if is_lesson:
                    assert backbone.decode(ids[0, 0, :begins].tolist()).endswith("<answer>")
                each = 3.0 if is_lesson else 1.0
                total -= each * told[0, 0, begins:].sum().item()
                count += each * (ids.shape[2] - begins)
    assert weight == pytest.approx(count)
    assert loss.item() == pytest.approx(total / count, rel=1e-5)
    assert broken == []


def test_the_mask_of_a_lesson_begins_with_its_answer(world):
    backbone = load_parent(world / "parent")
    text = completions.render(SAD, "sad")
    ids = backbone.encode_completion(text)
    mask = torch.tensor([[1] * len(ids) + [0, 0]])
    begins = answer_begins(backbone, text)
    assert answer_mask(backbone, [text], mask).tolist() == [
        [0] * begins + [1] * (len(ids) - begins) + [0, 0]
    ]
    assert mask.sum() == len(ids)  # the caller's stays as it is


def test_lessons_change_what_a_cold_start_learns(world, tmp_path):
    weights = []
    for per_clip in (0, 2):
        folder = tmp_path / f"{per_clip}"
        sft = toy.sft_params(reading_lessons=_params(per_clip, 0.0))
        toy.train_sft(world, folder, toy.machine_params(processes=1), sft, lambda *_: None)
        weights.append(load_parent(folder / "checkpoint").module.state_dict())
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
