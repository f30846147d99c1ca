"""Claims: what a rationale says of face and voice, in our wording and in people's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1omni.claim_words import WORDS
from r1omni.claims import (
    _WORDS,
    _longest_first,
    claims,
    levels,
    opening,
    reversed_claims,
    segments,
    without,
)
from r1omni.corpora.synthetic.attributes import ATTRIBUTES
from r1omni.corpora.synthetic.texts import caption, rationale, statements

LEVELS = st.fixed_dictionaries({name: st.sampled_from((-1, 0, 1)) for name in ATTRIBUTES})


@given(LEVELS, st.integers(0, 2**32 - 1))
def test_synthetic_texts_are_read_as_their_writer_reads_them(values, seed):
    for write in (rationale, caption):
        text = write(values, np.random.default_rng(seed))
        assert levels(text) == statements(text)
        for claim in claims(text):
            assert 0 <= claim.start < claim.end <= len(text)


@given(LEVELS, st.integers(0, 2**32 - 1))
def test_reversal_turns_every_level_and_is_its_own_inverse(values, seed):
    text = rationale(values, np.random.default_rng(seed))
    turned = reversed_claims(text)
    assert statements(turned) == {name: -level for name, level in statements(text).items()}
    assert reversed_claims(turned) == text


@given(LEVELS, st.integers(0, 2**32 - 1), st.sampled_from(("face", "voice")))
def test_without_a_side_nothing_is_claimed_of_it_and_the_other_side_stays(values, seed, side):
    text = rationale(values, np.random.default_rng(seed))
    told = without(text, side)
    kept = {c[:3] for c in claims(told)}
    assert kept == {c[:3] for c in claims(text) if c.side != side}
    assert ("I see nothing" if side == "face" else "I hear nothing") in told


@given(st.text(max_size=200))
def test_any_text_will_do(text):
    for claim in claims(text):
        assert text[claim.start : claim.end]
    reversed_claims(text)
    without(text, "voice")
    segments(text)
    opening(text)


# Sentences of our own in the manner of EMER's texts: (attribute, level, negated) in their order.
PEOPLE = {
    "In the video, a man frowns with his eyes wide open.": [("brows", -1, 0), ("eyes", 1, 0)],
    "In the video, her eyebrows are furrowed and her lips are turned down.": [
        ("brows", -1, 0), ("mouth", -1, 0)],
    "He keeps his head down and clenches his jaw.": [("head", -1, 0), ("jaw", -1, 0)],
    "She has a smile on her face and her mouth is wide open.": [("mouth", 1, 0), ("jaw", 1, 0)],
    "In the audio, he speaks quickly in a low, trembling tone.": [
        ("rate", 1, 0), ("pitch", -1, 0), ("tremor", 1, 0)],
    "In the audio, the tone is monotonous and the speech is slow, with pauses.": [
        ("melody", -1, 0), ("rate", -1, 0), ("rate", -1, 0)],
    "She speaks in a high-pitched voice, without raising her voice.": [
        ("pitch", 1, 0), ("loudness", 1, 1)],
    "The voice is not loud, and he never smiles.": [("loudness", 1, 1), ("mouth", 1, 1)],
    "He rarely smiles, and the voice lacks a shaky tone.": [("mouth", 1, 1), ("tremor", 1, 1)],
    "Her voice is neither fast nor shaky.": [("rate", 1, 1), ("tremor", 1, 1)],
    "The voice is far from being loud, anything but shaky, but fast.": [
        ("loudness", 1, 1), ("tremor", 1, 1), ("rate", 1, 0)],
    "She can't do anything but smile; her voice, not far from loud.": [
        ("mouth", 1, 0), ("loudness", 1, 0)],
    'In the text, the subtitle says "speak slowly". Overall, a hoarse voice.': [("breath", -1, 0)],
    "The face is at rest; a flat, soft, slow and steady and breathy.": [
        *((name, 0, 0) for name in ("brows", "eyes", "head", "jaw", "mouth")),
        ("melody", -1, 0), ("loudness", -1, 0), ("rate", -1, 0), ("tremor", -1, 0),
        ("breath", 1, 0)],
    "A slow, steady walk.": [],
    "He opened the low door of a wide house, and the road was flat.": [],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PEOPLE.items())
def test_claims_of_peoples_sentences(text, expected):
    assert [(c.attribute, c.level, int(c.negated)) for c in claims(text)] == expected


def test_markers_hold_until_the_next_one():
    text = "A room. In the video, he sits. He nods. In the audio, music. Overall, calm."
    kinds = [s.kind for s in segments(text)]
    assert kinds == ["plain", "video", "video", "audio", "summary"]


def test_the_audio_segment_is_left_out_whole():
    text = "In the video, he frowns. In the audio, he speaks fast. There is music."
    assert without(text, "voice") == "In the video, he frowns. I hear nothing."


def test_openings_name_the_form():
    assert opening("I see raised brows; I hear a low voice.") == "i see"
    assert opening("The brows are raised; the voice is low.") == "the"
    assert opening("Raised brows; a low voice.") == ""


SAID = sorted({word.opposite for words in WORDS.values() for word in words})


@given(st.lists(st.sampled_from(SAID), max_size=12))
def test_the_search_by_stems_finds_what_every_pattern_finds(words):
    clause = " and ".join(words)
    slow = [(m.span(), word) for word, _, pattern in _WORDS for m in pattern.finditer(clause)]
    fast = [(match.span(), word) for match, word in _longest_first(clause)]
    assert sorted(fast, key=str) == sorted(slow, key=str)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("He says 'I don't want to shout in a loud voice', calmly.", []),
        ("She says ‘a loud voice’ and «a soft voice» and 「a fast voice」.", []),  # noqa: RUF001
        ("The voice is not high-pitched but deep.", [("pitch", 1, True), ("pitch", -1, False)]),
        ("The brows are not raised but lowered.", [("brows", 1, True), ("brows", -1, False)]),
        ("In the audio, he is laughing in a loud voice.", [("loudness", 1, False)]),
        ("In the video, he is laughing.", [("mouth", 1, False)]),
        (
            "In the audio, the voice is loud. He is laughing.",
            [("loudness", 1, False), ("mouth", 1, False)],
        ),
    ],
)
def test_quotes_contrasts_and_what_is_only_heard(text, found):
    assert [(c.attribute, c.level, c.negated) for c in claims(text)] == found


def test_segments_are_cut_at_their_places_where_letters_grow_when_folded():
    text = "In the Straße ﬁlm: her brows are raised; her voice is loud; her eyes are wide."
    assert without(text, "face") == "In the Straße ﬁlm: I see nothing; her voice is loud."
