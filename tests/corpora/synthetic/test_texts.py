import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from r1omni.corpora.synthetic.attributes import ATTRIBUTES, LEVELS, draw_latent, word
from r1omni.corpora.synthetic.texts import caption, rationale, statements
from r1omni.emotions import EMOTIONS, canonical

LEVEL_SETS = st.fixed_dictionaries({name: st.sampled_from(LEVELS) for name in ATTRIBUTES})
SEEDS = st.integers(0, 2**16)


def test_every_level_word_names_one_attribute_and_no_emotion():
    words = [word(name, level) for name in ATTRIBUTES for level in LEVELS]
    assert len(set(words)) == 33
    assert not [w for w in words if canonical(w)]


def test_a_rationale_states_what_is_not_at_its_middle_level():
    levels = dict.fromkeys(ATTRIBUTES, 0) | {"brows": 1, "head": -1, "pitch": -1, "rate": 1}
    texts = {rationale(levels, np.random.default_rng(seed)) for seed in range(20)}
    assert texts == {
        "The brows are raised, head bowed; the voice is low and fast.",
        "Raised brows and bowed head; a low and fast voice.",
        "I see raised brows and bowed head; I hear a low and fast voice.",
    }


def test_a_clip_that_shows_nothing_is_said_to_be_at_rest():
    text = rationale(dict.fromkeys(ATTRIBUTES, 0), np.random.default_rng(0))
    assert text == "The face is at rest; the voice is plain."
    assert statements(text) == dict.fromkeys(ATTRIBUTES, 0)


@given(LEVEL_SETS, SEEDS)
def test_a_rationale_is_read_back_as_true_and_complete(levels, seed):
    claims = statements(rationale(levels, np.random.default_rng(seed)))
    assert claims.items() <= levels.items()
    assert {name for name, level in levels.items() if level} <= set(claims)


@given(LEVEL_SETS, SEEDS)
def test_a_caption_is_read_back_as_all_levels(levels, seed):
    assert statements(caption(levels, np.random.default_rng(seed))) == levels


@given(st.text())
def test_any_text_has_statements(text):
    assert set(statements(text)) <= set(ATTRIBUTES)


def test_two_levels_of_one_attribute_claim_nothing_about_it():
    assert statements("A low, loud and HIGH\nvoice.") == {"loudness": 1}
    assert statements("The lowest of lows") == {}


def test_rationales_are_short_and_name_no_emotion():
    rng = np.random.default_rng(0)
    texts = [
        rationale(draw_latent(emotion, rng, noise=0.2, shortcut=0.0).levels, rng)
        for emotion in EMOTIONS
        for _ in range(50)
    ]
    tokens = [re.findall(r"\w+|[^\w\s]", text) for text in texts]
    assert max(map(len, tokens)) <= 40
    assert 15 <= np.mean([len(t) for t in tokens]) <= 24
    assert not any(canonical(token) for text in tokens for token in text)
