"""All that the audit knows of a model: it completes a prompt, and it weighs labels and words."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from r1omni.prompts import AnswerMode


class Media(NamedTuple):
    """Whose picture and whose sound a model is given, by clip id. None: darkness, silence."""

    video: str | None
    audio: str | None


class Token(NamedTuple):
    """A token of a completion: its text is `completion[start:end]`."""

    start: int
    end: int
    logprob: float


class Answerer(Protocol):
    """A model under audit. A second backbone needs these, and is audited by the same code."""

    @property
    def mode(self) -> AnswerMode: ...

    def complete(self, media: Sequence[Media]) -> list[str]:
        """The greedy completion for each of B media."""
        ...

    def sample(self, media: Sequence[Media], n: int) -> list[list[str]]:
        """n sampled completions for each of B media; the same ones whenever it is asked."""
        ...

    def label_logprobs(
        self,
        media: Sequence[Media],
        rationales: Sequence[Sequence[str | None]],
        labels: Sequence[str],
    ) -> NDArray[np.float64]:
        """log p(label | media, rationale), the answer being one of L labels: (B, G, L).

        `rationales`: G for each of the B media. Where one is None (the model wrote none that is
        well formed), every label is alike. In the mode direct rationales are not read.
        """
        ...

    def token_logprobs(
        self, media: Sequence[Media], completions: Sequence[str]
    ) -> list[list[Token]]:
        """The tokens of each of B completions, in their order, with the model's log probability."""
        ...
