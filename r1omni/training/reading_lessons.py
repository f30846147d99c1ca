"""Reading lessons: which answer follows from a given rationale, whatever else is shown.

A lesson shows another clip's picture and sound beside a rationale, and only the answer is learned.
Without lessons an answer hardly depends on what the rationale says: with every statement reversed
it stays (docs/explanation/explanations.md). In some lessons claims are reversed by chance; the
answer to such a text is that of a reader of claims, fitted on the rationales themselves.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Final

from r1omni import completions
from r1omni.claims import reversed_claims
from r1omni.judges.reader import Reader, fit_reader
from r1omni.training.examples import Example
from r1omni.training_config import ReadingParams


class ReadingLessons:
    """The lessons of a training; `examples` are what it learns from anyway, all of them reasoned.

    A step's lessons are a function of its batch, the seed and the step alone, so that a resumed
    training has the same ones.
    """

    def __init__(self, examples: Sequence[Example], reading: ReadingParams, seed: int) -> None:
        self._reading, self._seed = reading, seed
        self._reader: Reader | None = None
        if reading.share and reading.reversed:
            parsed = [completions.parse(example.completion) for example in examples]
            self._reader = fit_reader(
                [p.rationale for p in parsed if p is not None],
                [p.answer for p in parsed if p is not None],
                words=False,
                folds=2,
                penalty=reading.reader_penalty,
                seed=seed,
            )

    def beside(self, batch: Sequence[Example], step: int) -> list[Example]:
        """The lessons of a step: for a share of its examples, each with another label's clip.

        A batch whose examples all have one label gives none.
        """
        found = []
        for place, example in enumerate(batch):
            random = Random(f"reading {self._seed}/{step}/{place}")
            if random.random() >= self._reading.share:
                continue
            if random.random() < self._reading.reversed:
                example = self._with_claims_reversed(example, random)
            others = [other for other in batch if other.label != example.label]
            if others:
                shown = random.choice(others).clip_id
                weight = self._reading.answer_weight
                found.append(replace(example, media=shown, answer_weight=weight))
        return found

    def _with_claims_reversed(self, example: Example, random: Random) -> Example:
        parsed = completions.parse(example.completion)
        assert parsed is not None and self._reader is not None
        text = reversed_claims(parsed.rationale, lambda claim: random.random() < 0.5)
        (answer,) = self._reader.answers([text])
        return replace(example, completion=completions.render(text, answer), label=answer)


NO_LESSONS: Final = ReadingLessons(
    [], ReadingParams(share=0.0, reversed=0.0, answer_weight=1.0, reader_penalty=1.0), 0
)
