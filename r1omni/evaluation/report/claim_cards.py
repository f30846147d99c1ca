"""Cards of audited clips: what the explanation claims, what a judge says of it, what it weighs."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from markupsafe import Markup

from r1omni.claims import ATTRIBUTES, Verdict
from r1omni.claims import claims as read_claims
from r1omni.emotions import in_order
from r1omni.evaluation.audit_results import AuditedClaim, AuditedClip
from r1omni.evaluation.report.audited import Audited
from r1omni.evaluation.report.clip_pictures import contact_sheet, sound_picture
from r1omni.evaluation.report.paper import CORPORA
from r1omni.evaluation.report.table1 import MISSING
from r1omni.judges.acoustics import RATE

if TYPE_CHECKING:
    from r1omni.evaluation.report.clip_media import ShownClip

SUPPORTED, CONTRADICTED = 0.5, 0.2  # the judge's probability: at least, below
CERTAIN, UNSURE = 0.9, 0.6  # the model's own probability of the word: at least, below
LEVEL_SIGNS: Final = ("▼", "●", "▲")  # low, middle, high
NARROW: Final = "\N{NARROW NO-BREAK SPACE}"
SIGNS: Final = {"supported": "✓", "contradicted": "✗", "undecided": "?", "unjudged": ""}


@dataclass(frozen=True)
class Piece:
    """A piece of a rationale; `verdict`, `certainty` and `side` are CSS classes, empty outside
    claims."""

    text: str
    verdict: str = ""
    certainty: str = ""
    about: str = ""
    side: str = ""

    @property
    def sign(self) -> str:
        """The verdict as a sign, which does not need a colour."""
        return SIGNS.get(self.verdict, "")


@dataclass(frozen=True)
class ClaimRow:
    """A claim's line: its words, what is known of it, and its weight's share of the largest."""

    words: str
    attribute: str
    verdict: str
    p: str
    certainty: str
    weight: str
    share: float
    is_against: bool


@dataclass(frozen=True)
class ClipPictures:
    """What a card shows of its clip: the data URI of `n_frames` frames, and its sound's SVG.

    `missing` says what there is not, and why.
    """

    frames: str = ""
    n_frames: int = 0
    sound: Markup | None = None
    missing: str = ""


@dataclass(frozen=True)
class ClaimCard:
    """An audited clip. `heard`: the sound's share of the answer, None if it was not measured.

    `levels`: by side, what the judges make of the clip ("pitch ▲ 0.93"). `pictures` is None where
    no clips were given.
    """

    id: str
    corpus: str
    clip: AuditedClip
    model: str
    pieces: tuple[Piece, ...]
    claims: tuple[ClaimRow, ...]
    heard: float | None
    phi: str
    levels: Mapping[str, str]
    pictures: ClipPictures | None = None


def claim_cards(
    audits: Sequence[Audited],
    cards_per_label: int,
    verdicts: Mapping[str, Verdict] | None = None,
) -> list[ClaimCard]:
    """Cards of the last model that writes rationales: `cards_per_label` clips for each label.

    The clips are chosen by a hash of their id, as `example_cards` does: a hash cannot favour good
    examples.
    """
    writing = [audit for audit in audits if any(clip.rationale for clip in audit.clips)]
    if not writing:
        return []
    audit = writing[-1]
    told = sorted((clip for clip in audit.clips if clip.rationale), key=_hash)
    return [
        _card(audit, clip, f"card-{label}-{i}", (verdicts or {}).get(clip.clip_id, {}))
        for label in in_order(clip.label for clip in told)
        for i, clip in enumerate([c for c in told if c.label == label][:cards_per_label], start=1)
    ]


def with_pictures(
    cards: Sequence[ClaimCard], shown: "Mapping[str, ShownClip | str]"
) -> list[ClaimCard]:
    """The cards with the pictures of their clips, or the reason why there are none."""
    return [replace(card, pictures=_pictures(shown[card.clip.clip_id])) for card in cards]


def pieces(rationale: str, claims: Sequence[AuditedClaim]) -> tuple[Piece, ...]:
    """The rationale cut at its claims; of two claims that overlap only the first is marked."""
    found: list[Piece] = []
    end = 0
    negations = _negations(rationale)
    for claim in sorted(claims, key=lambda claim: (claim.start, claim.end)):
        if claim.start < end:
            continue
        if claim.start > end:
            found.append(Piece(rationale[end : claim.start]))
        words, verdict = rationale[claim.start : claim.end], verdict_of(claim)
        about = _about(claim, verdict, negations.get(claim.start, ""))
        found.append(Piece(words, verdict, _certainty(claim), about, claim.side))
        end = claim.end
    if end < len(rationale):
        found.append(Piece(rationale[end:]))
    return tuple(found)


def verdict_of(claim: AuditedClaim) -> str:
    """supported, undecided or contradicted by the judge's probability; unjudged without one."""
    if claim.p is None:
        return "unjudged"
    if claim.p >= SUPPORTED:
        return "supported"
    return "contradicted" if claim.p < CONTRADICTED else "undecided"


def _card(audit: Audited, clip: AuditedClip, id: str, verdict: Verdict) -> ClaimCard:
    heard, phi = None, "not measured"
    if clip.phi_video is not None and clip.phi_audio is not None:
        total = abs(clip.phi_video) + abs(clip.phi_audio)
        heard = abs(clip.phi_audio) / total if total else 0.5
        phi = f"picture {clip.phi_video:+.2f}, sound {clip.phi_audio:+.2f} nats"
    rationale = clip.rationale or ""
    corpus = CORPORA.get(clip.corpus, clip.corpus)
    parts, rows = pieces(rationale, clip.claims), _rows(rationale, clip.claims)
    return ClaimCard(id, corpus, clip, audit.said, parts, rows, heard, phi, _levels(verdict))


def _pictures(clip: "ShownClip | str") -> ClipPictures:
    if isinstance(clip, str):
        return ClipPictures(missing=f"The clip cannot be shown: {clip}.")
    frames, n = contact_sheet(clip.frames), len(clip.frames)
    if not clip.waveform.any():
        return ClipPictures(frames, n, missing="The clip is silent.")
    return ClipPictures(frames, n, sound_picture(clip.waveform, RATE))


def _levels(verdict: Verdict) -> dict[str, str]:
    """By side: each judged attribute with its likeliest level and that level's probability."""
    return {
        side: " · ".join(f"{name}{_level(verdict[name])}" for name in names if name in verdict)
        for side, names in ATTRIBUTES.items()
        if any(name in verdict for name in names)
    }


def _level(p: tuple[float, float, float]) -> str:
    best = int(np.argmax(p))
    return f"{NARROW}{LEVEL_SIGNS[best]}{NARROW}{p[best]:.2f}"


def _rows(rationale: str, claims: Sequence[AuditedClaim]) -> tuple[ClaimRow, ...]:
    largest = max((abs(claim.weight or 0.0) for claim in claims), default=0.0) or 1.0
    negations = _negations(rationale)
    return tuple(
        ClaimRow(
            words=negations.get(claim.start, "") + rationale[claim.start : claim.end],
            attribute=claim.attribute,
            verdict=verdict_of(claim),
            p=_number(claim.p),
            certainty=_number(claim.certainty),
            weight=MISSING if claim.weight is None else f"{claim.weight:+.2f}",
            share=abs(claim.weight or 0.0) / largest,
            is_against=(claim.weight or 0.0) < 0,
        )
        for claim in sorted(claims, key=lambda claim: claim.start)
    )


def _negations(rationale: str) -> dict[int, str]:
    """Where a claim denies its words: the "not " without which its probability would mislead."""
    return {claim.start: "not " for claim in read_claims(rationale) if claim.negated}


def _certainty(claim: AuditedClaim) -> str:
    if claim.certainty is None:
        return "unknown"
    if claim.certainty >= CERTAIN:
        return "certain"
    return "unsure" if claim.certainty < UNSURE else "fairly"


def _about(claim: AuditedClaim, verdict: str, negation: str) -> str:
    judge = "no judge can say" if claim.p is None else f"{verdict}, judge {claim.p:.2f}"
    denied = "denied, " if negation else ""
    return (
        f"{claim.attribute}: {denied}{judge}; the model's own certainty {_number(claim.certainty)}"
    )


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _hash(clip: AuditedClip) -> bytes:
    return hashlib.sha256(clip.clip_id.encode()).digest()
