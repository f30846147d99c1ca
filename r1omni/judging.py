"""A completion's prediction and format, read in its checkpoint's answer mode."""

from dataclasses import dataclass

from r1omni.completions import parse
from r1omni.emotions import canonical
from r1omni.prompts import AnswerMode


@dataclass(frozen=True)
class Judgement:
    """A completion's parts; `prediction` is the canonical label that its answer names."""

    rationale: str | None
    answer: str | None
    prediction: str | None
    well_formed: bool


def judge(completion: str, mode: AnswerMode) -> Judgement:
    """A completion's parts, read in `mode`.

    reasoned: it is well formed if `completions.parse` accepts it. direct: the completion is its own
    answer, and well formed if it is one bare known label.
    """
    if mode == "direct":
        prediction = canonical(completion)
        return Judgement(None, completion.strip() or None, prediction, prediction is not None)
    parsed = parse(completion)
    if parsed is None:
        return Judgement(None, None, None, False)
    return Judgement(parsed.rationale, parsed.answer, canonical(parsed.answer), True)
