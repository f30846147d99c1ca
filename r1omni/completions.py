"""Completion text -> rationale and answer. One parser serves the rewards and the evaluation."""

import re
from dataclasses import dataclass
from typing import Final

ANSWER: Final = "<answer>"  # what the answer follows
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_REASONED = re.compile(r"<think>(.*?)</think>\s*<answer>(.*?)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Parsed:
    """The parts of a well-formed reasoned completion."""

    rationale: str
    answer: str


def parse(text: str) -> Parsed | None:
    """The rationale and the answer of a well-formed reasoned completion, else None.

    Well formed is exactly one `<think>…</think>` followed by exactly one `<answer>…</answer>`,
    neither of them blank, with only white space around and between them. R1-Omni's released format
    reward is less strict: it pays for two answers, nested tags and empty tags.
    """
    if any(text.count(tag) != 1 for tag in _TAGS):
        return None
    match = _REASONED.fullmatch(text.strip())
    if match is None:
        return None
    rationale, answer = (part.strip() for part in match.groups())
    return Parsed(rationale, answer) if rationale and answer else None


def render(rationale: str, answer: str) -> str:
    """The reasoned completion that `parse` reads back into `rationale` and `answer`."""
    return f"<think>{rationale}</think>\n<answer>{answer}</answer>"
