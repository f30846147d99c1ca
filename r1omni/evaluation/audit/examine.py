"""What one model says and answers to altered media and altered rationales, clip by clip.

Every number of the audit that needs the model comes from here. Legend: B clips, D donors, G
rationales, L labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from r1omni.claims import Claim, claims, reversed_claims
from r1omni.completions import render
from r1omni.evaluation.audit.answerer import Answerer, Media, Token
from r1omni.judging import Judgement, judge

Floats = NDArray[np.float64]
Coalition = frozenset[str]
VIDEO, AUDIO, RATIONALE = "video", "audio", "rationale"
FORCED: Final = ("reversed", "swap", "same_form")


@dataclass(frozen=True)
class Foreign:
    """Another clip's rationale, and the answer that it had there."""

    rationale: str
    prediction: str


@dataclass(frozen=True)
class Subject:
    """A clip to examine, with what the model answered to it and with whom it is compared.

    `donors`: clip id and rationale of other clips of its corpus. `swap` and `same_form`: other
    clips' rationales to force, whose answer differs; None where there is none.
    """

    clip_id: str
    corpus: str
    label: str
    prediction: str | None
    rationale: str | None
    donors: tuple[tuple[str, str | None], ...]
    swap: Foreign | None = None
    same_form: Foreign | None = None

    @property
    def reversed_rationale(self) -> str | None:
        """The rationale with every claim reversed; None if it has none to reverse."""
        turned = None if self.rationale is None else reversed_claims(self.rationale)
        return None if turned == self.rationale else turned

    def to_force(self) -> tuple[str | None, ...]:
        """The rationales of FORCED."""
        foreign = [None if f is None else f.rationale for f in (self.swap, self.same_form)]
        return self.reversed_rationale, *foreign


@dataclass(frozen=True)
class Examined:
    """What the model said and answered about one clip; log probabilities of the labels, (L,) each.

    `own`: after the clip and its own rationale. `forced`: after the clip and a forced rationale.
    `alone`: after its own rationale (`own`) or that with every claim reversed (`reversed`), in the
    dark and in silence. The keys of the other three name what is the clip's own. `blank`: other
    media are dark or silent. `donated`: other media are each donor's, (D, L). In both the model
    writes the rationale to what it is given. `text_too`: the rationale, too, is the clip's own or
    the first donor's. `donated` and `text_too` lack the empty key: it is the donor's `own`.
    """

    subject: Subject
    labels: tuple[str, ...]
    muted: Judgement
    dark: Judgement
    audio_swapped: tuple[Judgement, ...]
    video_swapped: tuple[Judgement, ...]
    own: Floats
    forced: Mapping[str, Floats]
    alone: Mapping[str, Floats]
    blank: Mapping[Coalition, Floats]
    donated: Mapping[Coalition, Floats]
    text_too: Mapping[Coalition, Floats]
    certainty: tuple[float, ...]  # the model's own probability of each claim's words
    samples: tuple[Judgement, ...]  # sampled completions; none of a model without rationales


def examine(
    answerer: Answerer, subjects: Sequence[Subject], labels: Sequence[str], samples: int = 0
) -> list[Examined]:
    """Examine clips of one corpus, whose labels these are. The subjects have equally many donors.

    Absence is measured twice: with darkness and silence, and with the donors' media.
    """
    asked = _Asked(answerer, subjects, tuple(labels))
    ids = [subject.clip_id for subject in subjects]
    own = [subject.rationale for subject in subjects]
    n_donors = len(subjects[0].donors)
    first = [subject.donors[0][1] if n_donors else None for subject in subjects]
    real = asked.weigh(
        [Media(i, i) for i in ids],
        [(r, d, *s.to_force()) for s, r, d in zip(subjects, own, first, strict=True)],
    )  # (B, 2 + len(FORCED), L)
    certain = asked.certainties()
    sampled = asked.samples(samples if answerer.mode == "reasoned" else 0)
    muted, in_silence = asked.complete_and_weigh([Media(i, None) for i in ids])
    dark, in_darkness = asked.complete_and_weigh([Media(None, i) for i in ids])
    _, nothing = asked.complete_and_weigh([Media(None, None)])
    audio_swapped: list[list[Judgement]] = []
    video_swapped: list[list[Judgement]] = []
    donated: dict[Coalition, list[Floats]] = {frozenset({VIDEO}): [], frozenset({AUDIO}): []}
    text_too: dict[Coalition, Floats] = {frozenset({VIDEO, AUDIO}): real[:, 1]}
    for d in range(n_donors):
        theirs = [subject.donors[d][0] for subject in subjects]
        for side, said, media in (
            (VIDEO, audio_swapped, [Media(i, j) for i, j in zip(ids, theirs, strict=True)]),
            (AUDIO, video_swapped, [Media(j, i) for i, j in zip(ids, theirs, strict=True)]),
        ):
            more = [own, first] if d == 0 else []
            judged, rows = asked.complete_and_weigh(media, *more)
            said.append(judged)
            donated[frozenset({side})].append(rows[:, 0])
            if d == 0:
                text_too[frozenset({side, RATIONALE})] = rows[:, 1]
                text_too[frozenset({side})] = rows[:, 2]
        if d == 0:
            rows = asked.weigh([Media(j, j) for j in theirs], [(text,) for text in own])
            text_too[frozenset({RATIONALE})] = rows[:, 0]
    reasoned = answerer.mode == "reasoned"
    alone = asked.alone() if reasoned else [{}] * len(subjects)
    return [
        Examined(
            subject,
            tuple(labels),
            muted[i],
            dark[i],
            tuple(judged[i] for judged in audio_swapped),
            tuple(judged[i] for judged in video_swapped),
            real[i, 0],
            {
                kind: real[i, 2 + k]
                for k, kind in enumerate(FORCED)
                if reasoned and subject.to_force()[k] is not None
            },
            alone[i],
            {
                frozenset({VIDEO}): in_silence[i, 0],
                frozenset({AUDIO}): in_darkness[i, 0],
                frozenset(): nothing[0, 0],
            },
            {side: np.stack([r[i] for r in rows]) for side, rows in donated.items() if rows},
            {side: rows[i] for side, rows in text_too.items()} if reasoned and n_donors else {},
            certain[i],
            sampled[i],
        )
        for i, subject in enumerate(subjects)
    ]


@dataclass(frozen=True)
class _Asked:
    """One model asked about some clips."""

    answerer: Answerer
    subjects: Sequence[Subject]
    labels: tuple[str, ...]

    def weigh(self, media: Sequence[Media], rationales: Sequence[Sequence[str | None]]) -> Floats:
        """(B, G, L)."""
        return self.answerer.label_logprobs(media, rationales, self.labels)

    def complete_and_weigh(
        self, media: Sequence[Media], *more: Sequence[str | None]
    ) -> tuple[list[Judgement], Floats]:
        """What the model says to the media, and how it weighs the labels behind that: (B, 1, L).

        `more`: further rationales for every clip; the log probabilities are (B, 1 + len(more), L).
        """
        completions = self.answerer.complete(media)
        judged = [judge(text, self.answerer.mode) for text in completions]
        texts = zip([judgement.rationale for judgement in judged], *more, strict=True)
        return judged, self.weigh(media, list(texts))

    def alone(self) -> list[dict[str, Floats]]:
        """What each clip's own rationale says to the model that sees and hears nothing else."""
        texts = [(s.rationale, s.reversed_rationale) for s in self.subjects]
        rows = self.weigh([Media(None, None)] * len(texts), texts)
        return [
            {kind: row[k] for k, kind in enumerate(("own", "reversed")) if pair[k] is not None}
            for pair, row in zip(texts, rows, strict=True)
        ]

    def samples(self, n: int) -> list[tuple[Judgement, ...]]:
        """n completions of each clip."""
        if not n:
            return [()] * len(self.subjects)
        media = [Media(subject.clip_id, subject.clip_id) for subject in self.subjects]
        found = self.answerer.sample(media, n)
        return [tuple(judge(text, self.answerer.mode) for text in texts) for texts in found]

    def certainties(self) -> list[tuple[float, ...]]:
        """For each clip the probability of each of its claims' words, as its model wrote them."""
        found: list[tuple[float, ...]] = [()] * len(self.subjects)
        writing = [i for i, s in enumerate(self.subjects) if s.rationale and claims(s.rationale)]
        if not writing:
            return found
        media = [Media(*[self.subjects[i].clip_id] * 2) for i in writing]
        texts = [render(self.subjects[i].rationale or "", self.labels[0]) for i in writing]
        for i, text, tokens in zip(
            writing, texts, self.answerer.token_logprobs(media, texts), strict=True
        ):
            rationale = self.subjects[i].rationale or ""
            begin = text.index(rationale, text.index(">"))  # not inside the tag
            found[i] = tuple(
                float(np.exp(sum(t.logprob for t in tokens if _within(t, claim, begin))))
                for claim in claims(rationale)
            )
        return found


def _within(token: Token, claim: Claim, begin: int) -> bool:
    """Whether the token writes a part of the claim, in a rationale that begins at `begin`."""
    return token.start < begin + claim.end and token.end > begin + claim.start
