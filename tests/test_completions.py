"""The parser of completions."""

import pytest
from hostile_completions import HONEST, MALFORMED, NO_KNOWN_LABEL
from hypothesis import given
from hypothesis import strategies as st

from r1omni.completions import Parsed, parse, render
from r1omni.emotions import canonical

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
texts = st.text(alphabet=st.characters(codec="utf-8")).map(str.strip)
plain_texts = texts.filter(lambda t: t and not any(tag in t for tag in TAGS))
tag_soup = st.lists(st.one_of(st.sampled_from([*TAGS, " ", "happy"]), texts), max_size=12)


def test_a_completion_gives_its_rationale_and_answer_without_the_space_around_them():
    text = "\n<think> lips curl up </think>\n\n<answer> Happy. </answer>  "
    assert parse(text) == Parsed(rationale="lips curl up", answer="Happy.")


def test_rationales_may_span_lines():
    assert parse("<think>a\nb</think><answer>sad</answer>") == Parsed("a\nb", "sad")


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
def test_malformed_completions_are_not_parsed(text: str):
    assert parse(text) is None


@pytest.mark.parametrize("text", NO_KNOWN_LABEL.values(), ids=NO_KNOWN_LABEL)
def test_well_formed_completions_are_parsed_whatever_they_answer(text: str):
    parsed = parse(text)
    assert parsed is not None
    assert canonical(parsed.answer) is None


@pytest.mark.parametrize("text", HONEST.values(), ids=HONEST)
def test_honest_completions_answer_happy(text: str):
    parsed = parse(text)
    assert parsed is not None
    assert canonical(parsed.answer) == "happy"


@given(plain_texts, plain_texts)
def test_what_is_rendered_is_parsed_back(rationale: str, answer: str):
    assert parse(render(rationale, answer)) == Parsed(rationale, answer)


@given(tag_soup)
def test_parse_never_raises_and_finds_no_tag_in_what_it_accepts(parts: list[str]):
    parsed = parse("".join(parts))
    if parsed is not None:
        assert parsed.rationale.strip()
        assert parsed.answer.strip()
        assert not any(tag in parsed.rationale + parsed.answer for tag in TAGS)
