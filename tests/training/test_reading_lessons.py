"""Reading lessons: whose clip is shown, which text is read, and which tokens are learned."""

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
from r1omni.training.examples import Example, answer_begins, without_missing
from r1omni.training.modality_dropout import NOTHING_MISSING
from r1omni.training.reading_lessons import ReadingLessons
from r1omni.training.sft import _batch_loss, token_weights
from r1omni.training_config import ReadingParams

HAPPY = "The brows are raised; the voice is loud."
SAD = "The brows are lowered; the voice is soft."


def _example(name: str, text: str, label: str) -> Example:
    return Example(name, "?", completions.render(text, label), label)


BATCH = [
    *(_example(f"happy-{i}", HAPPY, "happy") for i in range(4)),
    *(_example(f"sad-{i}", SAD, "sad") for i in range(4)),
]


def _lessons(share: float, reversed_share: float, seed: int = 1) -> ReadingLessons:
    reading = ReadingParams(
        share=share, reversed=reversed_share, answer_weight=3.0, reader_penalty=0.01
    )
    return ReadingLessons(BATCH, reading, seed)


def test_a_lesson_is_a_rationale_beside_the_clip_of_another_label():
    found = _lessons(1.0, 0.0).beside(BATCH, 5)
    assert [lesson.completion for lesson in found] == [e.completion for e in BATCH]
    for lesson, example in zip(found, BATCH, strict=True):
        assert lesson == replace(example, media=lesson.media, answer_weight=3.0)
        assert lesson.media.split("-")[0] != example.label


def test_lessons_depend_on_batch_seed_and_step_alone():
    lessons = _lessons(0.5, 0.5)
    first = [lessons.beside(BATCH, step) for step in range(50)]
    assert first == [_lessons(0.5, 0.5).beside(BATCH, step) for step in range(50)]
    assert first != [_lessons(0.5, 0.5, seed=2).beside(BATCH, step) for step in range(50)]
    assert sum(map(len, first)) / (50 * len(BATCH)) == pytest.approx(0.5, abs=0.08)


def test_without_a_share_or_a_second_label_there_is_no_lesson():
    assert _lessons(0.0, 0.5).beside(BATCH, 1) == []
    assert _lessons(1.0, 0.0).beside(BATCH[:4], 1) == []


def test_reversed_claims_are_answered_as_a_reader_of_the_rationales_answers():
    reader = fit_reader([HAPPY] * 4 + [SAD] * 4, ["happy"] * 4 + ["sad"] * 4,
                        words=False, folds=2, penalty=0.01, seed=1)  # fmt: skip
    lessons = _lessons(1.0, 1.0)
    seen = set()
    for step in range(20):
        for lesson in lessons.beside(BATCH, step):
            parsed = completions.parse(lesson.completion)
            assert [parsed.answer] == reader.answers([parsed.rationale])
            assert lesson.label == parsed.answer
            assert lesson.media.split("-")[0] != lesson.label
            seen.add((parsed.rationale, parsed.answer))
    assert {(HAPPY, "happy"), (SAD, "sad")} < seen  # none and both claims reversed
    assert len({text for text, _ in seen}) == 4  # of two claims each combination


def test_some_claims_are_reversed_and_the_others_stay():
    brows = reversed_claims(HAPPY, lambda claim: claim.attribute == "brows")
    assert [(c.attribute, c.level) for c in claims(brows)] == [("brows", -1), ("loudness", 1)]
    assert reversed_claims(HAPPY, lambda _: False) == HAPPY


def test_of_a_lesson_the_answer_alone_is_learned_and_its_weight_counts(world):
    backbone = load_parent(world / "parent")
    store = FeatureStore([world / "features"])
    ordinary = replace(_example("clip-1", HAPPY, "happy"), instruction="Which emotion?")
    lesson = replace(ordinary, media="clip-2", answer_weight=3.0)
    ids = backbone.encode_completion(lesson.completion)
    begins = answer_begins(backbone, lesson.completion)
    assert backbone.decode(ids[:begins]).endswith("<answer>")
    mask = torch.ones(2, len(ids), dtype=torch.long)
    weights = token_weights(backbone, [ordinary, lesson], mask)
    expected = [[1.0] * len(ids), [0.0] * begins + [3.0] * (len(ids) - begins)]
    assert weights.tolist() == expected

    with torch.no_grad():
        loss, tokens, broken = _batch_loss(
            backbone, store.load, [ordinary, lesson], NOTHING_MISSING
        )
        told = []
        for clip in ("clip-1", "clip-2"):  # the lesson shows the second clip
            prefix = prefill_prompts(backbone, store.load([clip]), ["Which emotion?"])
            rows = torch.tensor([[ids]]), torch.ones(1, 1, len(ids), dtype=torch.long)
            told.append(score_completions(backbone.language_model, prefix, *rows)[0].flatten())
    answer = 3.0 * (len(ids) - begins)
    by_hand = -(told[0].sum() + 3.0 * told[1][begins:].sum()) / (len(ids) + answer)
    assert tokens == len(ids) + answer
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert broken == []


def test_a_batch_without_lessons_keeps_its_mask(world):
    backbone = load_parent(world / "parent")
    mask = torch.ones(1, 3, dtype=torch.long)
    assert token_weights(backbone, BATCH[:1], mask) is mask


def test_the_text_of_a_lesson_is_not_about_what_is_shown():
    lesson = replace(BATCH[0], media="sad-1", answer_weight=1.0)
    assert without_missing(lesson, "voice") is lesson


def test_lessons_change_what_a_cold_start_learns(world, tmp_path):
    weights = []
    for share in (0.0, 1.0):
        reading = ReadingParams(share=share, reversed=0.0, answer_weight=2.0, reader_penalty=0.01)
        folder, sft = tmp_path / f"{share}", toy.sft_params(reading_lessons=reading)
        toy.train_sft(world, folder, toy.machine_params(processes=1), sft, lambda *_: None)
        weights.append(load_parent(folder / "checkpoint").module.state_dict())
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_corpus_without_claims_cannot_have_its_claims_reversed():
    reading = ReadingParams(share=1.0, reversed=0.5, answer_weight=2.0, reader_penalty=0.01)
    examples = [_example(name, "Nothing to see.", name) for name in ("happy", "sad")]
    with pytest.raises(ValueError, match="needs claims: none stands in 3 rationales"):
        ReadingLessons(examples, reading, 1)
