"""Reading lessons: which answer follows from a given rationale, whatever clip is shown.

A lesson puts another clip's rationale behind a clip's prompt, and only the answer is learned.
Without lessons an answer hardly depends on what the rationale says: with every claim reversed it
stays (docs/explanation/explanations.md). In some lessons claims are reversed by chance; the answer
to such a text is that of a reader of claims, fitted on the rationales themselves.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

from torch import Tensor

from r1omni import completions
from r1omni.claims import reversed_claims
from r1omni.judges.reader import Reader, fit_reader
from r1omni.model.backbone import Backbone
from r1omni.training.examples import Example
from r1omni.training_config import ReadingParams


class ReadingLessons:
    """The lessons of a training; `examples` are what it learns from anyway, all of them reasoned.

    A clip's lessons are a function of seed, step and its place in the global batch alone, so that a
    resumed training, on any number of ranks, has the same ones.
    Raises ValueError, naming the clip, for a completion that is not well formed (a rationale that
    holds a tag), and where no rationale makes claims that a reader could learn.
    """

    def __init__(self, examples: Sequence[Example], reading: ReadingParams, seed: int) -> None:
        self.per_clip, self.answer_weight = reading.per_clip, reading.answer_weight
        self._reading, self._seed = reading, seed
        self._rationales: list[str] = []
        self._labels: list[str] = []
        self._reader: Reader | None = None
        if not self.per_clip:
            return
        for example in examples:
            parsed = completions.parse(example.completion)
            if parsed is None:
                raise ValueError(
                    f"cold_start.reading_lessons: clip {example.clip_id!r}: expected a rationale "
                    f"and an answer in their tags, once each; got {example.completion!r}"
                )
            self._rationales.append(parsed.rationale)
            self._labels.append(parsed.answer)
        if reading.reversed:
            self._reader = fit_reader(
                self._rationales,
                self._labels,
                words=False,
                folds=2,
                penalty=reading.reader_penalty,
                seed=seed,
            )

    def at(self, step: int, place: int) -> list[str]:
        """The completions whose answers are learned behind the prompt at this place."""
        random = Random(f"reading {self._seed}/{step}/{place}")
        return [self._lesson(random) for _ in range(self.per_clip)]

    def _lesson(self, random: Random) -> str:
        chosen = random.randrange(len(self._rationales))
        text, answer = self._rationales[chosen], self._labels[chosen]
        if self._reader is not None and random.random() < self._reading.reversed:
            text = reversed_claims(text, lambda claim: random.random() < 0.5)
            (answer,) = self._reader.answers([text])
        return completions.render(text, answer)


NO_LESSONS: Final = ReadingLessons(
    [], ReadingParams(per_clip=0, reversed=0.0, answer_weight=1.0, reader_penalty=1.0), 0
)


def answer_mask(backbone: Backbone, lessons: Sequence[str], mask: Tensor) -> Tensor:
    """1 on the tokens of each lesson's answer and on what follows it: (N, T) as `mask`."""
    answers = mask.clone()
    for row, completion in zip(answers, lessons, strict=True):
        row[: answer_begins(backbone, completion)] = 0
    return answers


def answer_begins(backbone: Backbone, completion: str) -> int:
    """The place of the answer's first token in a reasoned completion's ids."""
    given = completion[: completion.index(completions.ANSWER) + len(completions.ANSWER)]
    whole, prefix = (backbone.encode_completion(text) for text in (completion, given))
    pairs = zip(whole, prefix, strict=False)
    return next(i for i, (one, other) in enumerate(pairs) if one != other)
