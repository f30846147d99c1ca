"""What a rationale claims of a face and a voice, and the same rationale turned around.

One grammar reads our synthetic wording and people's rationales (EMER's). It is small and knows
nothing of emotions: a claim is an attribute's level, such as raised brows or a soft voice. Every
function is total: any string will do.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from r1omni.claim_words import AT_REST, ATTRIBUTES, NOUNS, WORDS, Side, Word

__all__ = [
    "ABSENT", "ATTRIBUTES", "SIDE_OF", "Claim", "Segment", "Side", "Verdict", "claims", "levels",
    "opening", "reversed_claims", "segments", "without",
]  # fmt: skip

SIDE_OF: Final[Mapping[str, Side]] = {
    name: side for side, names in ATTRIBUTES.items() for name in names
}
# What an honest rationale says in place of a side that is missing.
ABSENT: Final[Mapping[Side, str]] = {"face": "I see nothing", "voice": "I hear nothing"}

# What is known of a clip: judged attribute -> the probabilities of its levels -1, 0, +1.
Verdict = Mapping[str, tuple[float, float, float]]
SegmentKind = Literal["video", "audio", "text", "summary", "plain"]


class Claim(NamedTuple):
    """One statement: `attribute` is at `level`, or, `negated`, is not. `text[start:end]` makes it.

    Level -1, 0 or +1: for pitch low, medium, high.
    """

    side: Side
    attribute: str
    level: int
    start: int
    end: int
    negated: bool = False


class Segment(NamedTuple):
    """A sentence or clause, `text[start:end]`, and what it says that it speaks of."""

    kind: SegmentKind
    start: int
    end: int


_MARKERS: Final[tuple[tuple[SegmentKind, re.Pattern[str]], ...]] = (
    ("video", re.compile(r"\b(?:in|from|throughout) the (?:video|footage|frames?|scene)\b")),
    ("audio", re.compile(r"\b(?:in|from|throughout) the (?:audio|sound|recording)\b")),
    ("text", re.compile(r"\b(?:in|from) the (?:text|subtitles?)\b|\bthe subtitles?\b")),
    ("summary", re.compile(r"\b(?:based on|therefore|in summary|overall|combin(?:ing|ed)|taken to"
                           r"gether)\b")),
)  # fmt: skip
_HEARD: Final = dict(_MARKERS)["audio"]
_SENTENCE: Final = re.compile(r"[^.!?。]+[.!?。]*")
_CLAUSE: Final = re.compile(r"[^;:]+")
_QUOTED: Final = re.compile(
    r"\"[^\"]*\"|“[^”]*”|(?<!\w)'(?:[^']|'(?=\w))*'(?!\w)|‘(?:[^’]|’(?=\w))*’|«[^»]*»|「[^」]*」"  # noqa: RUF001
)
_TOKEN: Final = re.compile(r"[a-z]+(?:['’-][a-z]+)*|,")  # noqa: RUF001
_NEGATOR: Final = re.compile(
    r"no|not|never|without|neither|nor|hardly|barely|rarely|seldom|scarcely|lack(?:s|ing)?"
    r"|\w+n['’]t"  # noqa: RUF001
)
_NEGATING_PAIRS: Final = (["far", "from"], ["anything", "but"])
_NEGATION_REACH: Final = 4  # words from a negator to the word that it denies
_LISTED: Final = (
    3  # attributes of a voice that make a list of it, without a noun: "flat, soft, slow"
)
_COMMA: Final = 2  # how far a comma moves two words apart; any word between them counts 1
_REACH: Final[Mapping[Side, int]] = {"face": 5, "voice": 20}  # a voice's words come in lists


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{pattern})\b")


_NOUNS: Final = {name: _compiled(pattern) for name, pattern in NOUNS.items()}
_ANY_NOUN: Final = _compiled("|".join(NOUNS.values()))
_AT_REST: Final = {side: _compiled(pattern) for side, pattern in AT_REST.items()}


def _stem(pattern: str) -> str:
    """The letters that every match of a word's pattern begins with."""
    letters = re.match("[a-z]*", pattern)
    assert letters is not None
    return letters[0][:-1] if pattern[letters.end() :][:1] in ("?", "*") else letters[0]


# Longer matches first: "wide open" is one word, and holds neither "wide" nor "open".
_WORDS: Final = tuple(
    (word, _stem(word.pattern), _compiled(word.pattern))
    for words in WORDS.values()
    for word in words
)
_ANY_WORD: Final = _compiled("|".join(word.pattern for word, _, _ in _WORDS))


class _Found(NamedTuple):
    """A word with its claim."""

    word: Word | None  # None: a phrase for a whole side at rest
    claim: Claim


@lru_cache(maxsize=4096)
def claims(rationale: str) -> tuple[Claim, ...]:
    """Every claim of the rationale, in its order.

    Quoted speech and sentences about the subtitles' text claim nothing, and what is heard ("in the
    audio, he is laughing") claims nothing of a face. A word that can belong to several attributes
    belongs to the nearest noun of its clause.
    """
    return tuple(found.claim for found in _find(rationale))


def levels(rationale: str) -> dict[str, int]:
    """The level that the rationale claims for each attribute that it speaks of.

    Left out: attributes with two different levels, and negated claims.
    """
    found: dict[str, set[int]] = {}
    for claim in claims(rationale):
        if not claim.negated:
            found.setdefault(claim.attribute, set()).add(claim.level)
    return {name: seen.pop() for name, seen in found.items() if len(seen) == 1}


def segments(rationale: str) -> tuple[Segment, ...]:
    """The rationale's clauses. A marker ("In the audio, …") holds for its sentence.

    A sentence without a marker continues the one before; before the first marker it is plain.
    """
    return tuple(_segments(_masked(rationale)))


def reversed_claims(rationale: str, which: Callable[[Claim], bool] = lambda claim: True) -> str:
    """The rationale with claims turned into their opposites: raised brows are lowered.

    Every claim, or those that `which` takes. Claims of a middle level stay. On the synthetic
    wording it is its own inverse.
    """
    parts, end = [], 0
    for word, claim in _find(rationale):
        if word is None or claim.level == 0 or not which(claim):
            continue
        old = rationale[claim.start : claim.end]
        new = word.opposite
        parts += [rationale[end : claim.start], new.capitalize() if old[:1].isupper() else new]
        end = claim.end
    return "".join([*parts, rationale[end:]])


def without(rationale: str, side: Side) -> str:
    """The rationale of someone who could not see (`face`) or hear (`voice`), and says so.

    Clauses that speak of the side are left out; `ABSENT[side]` takes the first one's place.
    """
    kept: list[str] = []
    said = False
    own: SegmentKind = "video" if side == "face" else "audio"
    for segment in segments(rationale):
        text = rationale[segment.start : segment.end]
        if not (segment.kind == own or _speaks_of(text, side)):
            kept.append(text)
        elif not said:
            said = True
            kept.append(_in_place_of(text, ABSENT[side]))
    if not said:
        kept.append(f"{' ' if rationale else ''}{ABSENT[side]}.")
    text = "".join(kept).strip()
    return f"{text[:-1]}." if text.endswith((";", ":")) else text


def opening(rationale: str) -> str:
    """The form that the rationale begins in: its words up to the first claim or noun, folded."""
    folded = rationale.casefold()
    starts = [m.start() for m in (_ANY_NOUN.search(folded), _ANY_WORD.search(folded)) if m]
    return " ".join(folded[: min(starts, default=len(folded))].split())


def _speaks_of(text: str, side: Side) -> bool:
    folded = _masked(text)
    nouns = any(_NOUNS[name].search(folded) for name in ATTRIBUTES[side])
    return bool(
        nouns
        or _AT_REST[side].search(folded)
        or any(c.side == side for c in claims(text))
        or ABSENT[side].casefold() in folded
    )


def _in_place_of(text: str, sentence: str) -> str:
    """`sentence` with the clause's spaces, capital and end."""
    body = text.strip()
    lead = text[: len(text) - len(text.lstrip())]
    end = body[len(body.rstrip(".;:!?。")) :]
    begins = sentence if body[:1].isupper() or sentence[:2] == "I " else sentence.lower()
    return f"{lead}{begins}{end}"


def _segments(folded: str) -> Iterator[Segment]:
    kind: SegmentKind = "plain"
    for sentence in _SENTENCE.finditer(folded):
        marked = [name for name, marker in _MARKERS if marker.search(sentence.group())]
        kind = marked[0] if marked else kind
        start = sentence.start()
        for clause in _CLAUSE.finditer(sentence.group()):
            end = clause.end() + (clause.end() < len(sentence.group()))  # its ";" goes with it
            yield Segment(kind, start, sentence.start() + end)
            start = sentence.start() + end


def _find(rationale: str) -> list[_Found]:
    folded = _masked(rationale)
    found: list[_Found] = []
    for segment in _segments(folded):
        if segment.kind != "text":
            found += [
                _Found(word, claim._replace(start=claim.start + at, end=claim.end + at))
                for at in [segment.start]
                for word, claim in _in_clause(folded[at : segment.end])
                if not (claim.side == "face" and _HEARD.search(folded[at : segment.end]))
            ]
    return sorted(found, key=lambda f: (f.claim.start, f.claim.attribute))


def _masked(rationale: str) -> str:
    """The text in lower case, quoted speech as quotation marks, every character in its place."""
    # One character for each, so that positions hold: some letters grow when they are folded.
    lowered = (
        rationale.lower()
        if rationale.isascii()
        else "".join(c.lower() if len(c.lower()) == 1 else c for c in rationale)
    )
    return _QUOTED.sub(lambda match: '"' * len(match.group()), lowered)


@lru_cache(maxsize=2**14)  # models repeat themselves clause by clause
def _in_clause(clause: str) -> tuple[_Found, ...]:
    return tuple(_found_in(clause))


def _found_in(clause: str) -> Iterator[_Found]:
    nouns = [
        (match, {name for name, noun in _NOUNS.items() if noun.fullmatch(match.group())})
        for match in _ANY_NOUN.finditer(clause)
    ]
    for side, pattern in _AT_REST.items():
        for match in pattern.finditer(clause):
            span = match.span()
            for name in ATTRIBUTES[side]:
                yield _Found(None, Claim(side, name, 0, *span, _negated(clause, match.start())))
    taken: list[tuple[int, int]] = []
    matches = _longest_first(clause)
    voice = {word.attribute for _, word in matches if SIDE_OF[word.attribute] == "voice"}
    listed = not nouns and len(voice) >= _LISTED
    for match, word in matches:
        if any(match.start() < end and start < match.end() for start, end in taken):
            continue
        in_list = listed and word.attribute in voice
        if not (word.alone or in_list or _belongs(clause, match, word.attribute, nouns)):
            continue
        taken.append(match.span())
        denied = _negated(clause, match.start())
        start, end = match.span()
        side = SIDE_OF[word.attribute]
        yield _Found(word, Claim(side, word.attribute, word.level, start, end, denied))


def _longest_first(clause: str) -> list[tuple[re.Match[str], Word]]:
    if not _ANY_WORD.search(clause):
        return []
    matches = [
        (match, word)
        for word, stem, pattern in _WORDS
        if stem in clause  # much quicker than to search for the pattern
        for match in pattern.finditer(clause)
    ]
    return sorted(matches, key=lambda found: (found[0].start() - found[0].end(), found[1].alone))


def _belongs(
    clause: str, match: re.Match[str], attribute: str, nouns: list[tuple[re.Match[str], set[str]]]
) -> bool:
    """Whether the noun nearest to the word is one of the attribute's."""
    best, owners = 10**6, set[str]()
    for noun, names in nouns:
        if match.start() <= noun.start() and noun.end() <= match.end():
            distance = 0  # the word holds the noun: "even tone"
        elif noun.start() >= match.end():
            distance = _distance(clause[match.end() : noun.start()])
        elif noun.end() <= match.start():
            distance = _distance(clause[noun.end() : match.start()])
        else:
            continue
        if distance < best or (distance == best and noun.start() >= match.end()):
            best, owners = distance, names
    return attribute in owners and best <= _REACH[SIDE_OF[attribute]]


def _distance(between: str) -> int:
    return sum(_COMMA if token == "," else 1 for token in _TOKEN.findall(between))


def _negated(clause: str, start: int) -> bool:
    """Whether one of the few words before denies the word at `start`. A comma ends its reach.

    "Far from the" is a place, and "not far from", "nothing but" and the like deny nothing.
    """
    tokens = _TOKEN.findall(clause[:start])
    for i in range(len(tokens) - 1, max(-1, len(tokens) - 1 - _NEGATION_REACH), -1):
        if tokens[max(0, i - 1) : i + 1] in _NEGATING_PAIRS:
            before = tokens[max(0, i - 3) : i - 1]
            return tokens[i + 1 : i + 2] != ["the"] and not any(map(_NEGATOR.fullmatch, before))
        if tokens[i] in (",", "but"):
            return False
        if _NEGATOR.fullmatch(tokens[i]):
            return tokens[i + 1 : i + 2] != ["only"]
    return False
