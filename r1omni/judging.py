"""A completion read as its checkpoint's mode: what it answers, and whether it has the form."""

from dataclasses import dataclass

from r1omni.completions import parse
from r1omni.emotions import canonical
from r1omni.prompts import AnswerMode


@dataclass(frozen=True)
class Judged:
    """What a completion says: `prediction` is the canonical label that its answer names."""

    rationale: str | None
    answer: str | None
    prediction: str | None
    well_formed: bool


def judge(completion: str, mode: AnswerMode) -> Judged:
    """What a completion says when it is read as `mode`.

    reasoned: well formed is what `completions.parse` accepts. direct: the completion is its own
    answer, and well formed if it is one bare known label.
    """
    if mode == "direct":
        prediction = canonical(completion)
        return Judged(None, completion.strip() or None, prediction, prediction is not None)
    parsed = parse(completion)
    if parsed is None:
        return Judged(None, None, None, False)
    return Judged(parsed.rationale, parsed.answer, canonical(parsed.answer), True)
