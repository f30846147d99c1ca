"""The words of claims: what a text calls a face or a voice, by attribute and level.

One table for our synthetic wording and for people's rationales. A line is `level: words`; a word is
a regular expression, with the word that reverses it behind `=` (default: the first word of the
opposite level). A word with `*` makes its claim alone. Others need one of the attribute's nouns
near them in the same clause, because "low" or "open" can speak of anything.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Side = Literal["face", "voice"]

ATTRIBUTES: Final[Mapping[Side, tuple[str, ...]]] = {
    "face": ("brows", "eyes", "mouth", "jaw", "head"),
    "voice": ("pitch", "melody", "loudness", "rate", "tremor", "breath"),
}

# One phrase that claims the middle level of every attribute of its side.
AT_REST: Final[Mapping[Side, str]] = {
    "face": r"face (?:is |was |remains |stays )?(?:at rest|expressionless|blank)",
    "voice": r"voice (?:is |was )?plain",
}

_VOICE: Final = (
    r"voices?|tones?|speech|speaks?|speaking|spoken|spoke|talk(?:s|ed|ing)?|words|intonation"
    r"|sounds?|hears?|heard"
)

NOUNS: Final[Mapping[str, str]] = {
    "brows": r"(?:eye)?brows?|forehead",
    "eyes": r"eyes?|gaze|eyelids?",
    "mouth": r"mouths?|lips?",
    "jaw": r"jaws?|teeth|mouths?",
    "head": r"heads?|chin",
    "pitch": rf"{_VOICE}|pitch",
    "melody": rf"{_VOICE}|melody|pitch",
    "loudness": rf"{_VOICE}|volume|loudness",
    "rate": rf"{_VOICE}|rate|pace|speed|tempo",
    "tremor": _VOICE,
    "breath": rf"{_VOICE}|breath(?:s|ing)?",
}

_TABLE: Final[Mapping[str, str]] = {
    "brows": """
        -1: lowered furrowed furrow(?:s|ing)?=raise knit(?:ted)? frowned drawn\\s+together
            tight(?:ly)?\\s+locked wrinkled *scowl(?:s|ed|ing)?=raised\\s+brows
            *frown(?:s|ed)?=raised\\s+brows
        0: relaxed
        +1: raised rais(?:e|es|ing)=lower lifted arched
    """,
    "eyes": """
        -1: narrowed narrow(?:s|ing)? squint(?:s|ed|ing)? half[\\s-]closed
        0: open
        +1: wide wide(?:ly)?\\s+open open(?:ed)?\\s+wide *wide-eyed=narrow-eyed widened widening
    """,
    "mouth": """
        -1: frowning downturned turn(?:ed|s|ing)?\\s+down drooping pout(?:s|ing|ed)? pulled\\s+down
        0: straight
        +1: smiling *smil(?:e|es|ed|ing)=frowning *grin(?:s|ned|ning)?=frowning upturned
            turn(?:ed|s|ing)?\\s+up
            *laugh(?:s|ed|ing)?=pouting
    """,
    "jaw": """
        -1: clenched *clench(?:es|ing)?=drop gritted *grit(?:s|ting)?=drop
        0: loose
        +1: dropped agape gaping wide(?:ly)?\\s+open=clenched open(?:ed)?\\s+wide=clenched
    """,
    "head": """
        -1: bowed lower(?:ed|s|ing)? hung hang(?:s|ing)? down
            *look(?:s|ed|ing)?\\s+down=looking\\s+up
        0: upright held\\s+up
        +1: tilted tilt(?:s|ing)?=bow cocked
    """,
    "pitch": """
        -1: low deep low-pitched
        0: medium
        +1: high *high-pitched=low-pitched shrill *shrill(?:y)?\\s+voice=low\\s+voice sharp
    """,
    "melody": """
        -1: flat *monoton(?:e|ous|ously)=lively even\\s+(?:tone|intonation)=lively\\s+tone
        0: moderate
        +1: lively expressive animated varied rising\\s+and\\s+falling
    """,
    "loudness": """
        -1: soft softly=loudly quiet quietly=loudly faint faintly=loudly
            *whisper(?:s|ed|ing)?=shouting
            low\\s+volume=high\\s+volume
            volume\\s+is\\s+low=volume\\s+is\\s+high
            *lowers?\\s+(?:his|her|their|the)\\s+voice=raises\\s+the\\s+voice
        0: normal
        +1: loud loudly=softly *shout(?:s|ed|ing)?=whispering *yell(?:s|ed|ing)?=whispering
            high\\s+volume=low\\s+volume volume\\s+is\\s+high=volume\\s+is\\s+low
            *rais(?:es|ed|ing)\\s+(?:his|her|their|the)\\s+voice=lowered\\s+the\\s+voice
            *raised\\s+voice=lowered\\s+voice
    """,
    "rate": """
        -1: slow slowly=quickly halting hesitant hesitat(?:es|ed|ing|ingly)=hurried
            *paus(?:e|es|ed|ing)=rushing
        0: even
        +1: fast quick quickly=slowly rapid rapidly=slowly hurried hurriedly=slowly
    """,
    "tremor": """
        -1: steady steadily=shakily stable
        0: natural
        +1: *trembling *trembl(?:e|es|ed)=steady *tremulous
            shak(?:y|ing|es|ily) *quiver(?:s|ed|ing)?
            *sobb(?:ing|ed)=steady *sobs?=steady choked choking
    """,
    "breath": """
        -1: harsh hoarse hoarsely=breathily rough raspy husky
        0: clear
        +1: breathy *pant(?:s|ed|ing)?=harsh *gasp(?:s|ed|ing)?=harsh *sigh(?:s|ed|ing)?=harsh
            airy out\\s+of\\s+breath=harsh
    """,
}


class Word(NamedTuple):
    """A level's word: `alone` words need no noun; `opposite` takes its place when reversed."""

    attribute: str
    pattern: str
    level: int
    opposite: str
    alone: bool


def _words(attribute: str, table: str) -> tuple[Word, ...]:
    rows: dict[int, list[str]] = {}
    for token in table.split():
        if token in ("-1:", "0:", "+1:"):
            current = rows.setdefault(int(token[:-1]), [])
        else:
            current.append(token)
    found = []
    for level, tokens in rows.items():
        for token in tokens:
            pattern, _, opposite = token.removeprefix("*").partition("=")
            opposite = opposite.replace(r"\s+", " ") or rows[-level][0].removeprefix("*")
            found.append(Word(attribute, pattern, level, opposite, token.startswith("*")))
    return tuple(found)


WORDS: Final[Mapping[str, tuple[Word, ...]]] = {
    attribute: _words(attribute, table) for attribute, table in _TABLE.items()
}
