"""The certainty curve: are the claims that a model is surest of also the ones that are so?"""

from collections.abc import Sequence

from markupsafe import Markup

from r1omni.claims import Side
from r1omni.evaluation.report.audited import Audited
from r1omni.evaluation.report.charts import Curve, curve_chart
from r1omni.evaluation.report.claim_cards import SUPPORTED

KEPT = tuple(k / 20 for k in range(2, 21))  # shares of the claims that are kept: 10 % to all
SIDES: tuple[Side, ...] = ("face", "voice")
MIN_CLAIMS = 20  # of a side; fewer draw noise


def certainty_chart(audits: Sequence[Audited]) -> Markup | None:
    """A line for each model and side, the voice's dashed; None where nothing can be drawn."""
    curves = [
        Curve(points, audit.tone, f"{audit.said}: {side}", is_dashed=side == "voice")
        for audit in audits
        for side in SIDES
        if (points := kept_and_supported(audit, side))
    ]
    label = "Share of claims that the judge supports, by the share of most certain claims kept"
    return curve_chart(curves, label, ("most certain claims kept", "supported")) if curves else None


def kept_and_supported(audit: Audited, side: Side) -> tuple[tuple[float, float], ...]:
    """For each share of KEPT: of the most certain judged claims, the share that is supported."""
    judged = [
        (claim.certainty, claim.p >= SUPPORTED)
        for clip in audit.clips
        for claim in clip.claims
        if claim.side == side and claim.p is not None and claim.certainty is not None
    ]
    if len(judged) < MIN_CLAIMS:
        return ()
    supported = [is_so for _, is_so in sorted(judged, key=lambda claim: -claim[0])]
    counts = [max(1, round(kept * len(supported))) for kept in KEPT]
    return tuple((kept, sum(supported[:n]) / n) for kept, n in zip(KEPT, counts, strict=True))
