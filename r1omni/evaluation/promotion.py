"""The gate before `champion` moves: registering is not promoting.

A candidate is compared with the champion by their answers to the same held-out clips (gate.py).
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from r1omni.config import TrackingParams
from r1omni.evaluation.gate import Comparison, Outcomes, compare, outcomes_of
from r1omni.evaluation.predictions import read_predictions
from r1omni.evaluation_config import PromotionParams
from r1omni.tracking.champion import CHAMPION, Champion, Version, open_champion
from r1omni.tracking.provenance import held_out_note


@dataclass(frozen=True)
class Decision:
    """What the gate decided; `reason` is one sentence for a person.

    refused: the two cannot be compared, or the candidate's metrics are broken. `champion`: the
    version that is champion now.
    """

    outcome: Literal["promoted", "kept", "refused"]
    reason: str
    champion: int | None


def run_promote(target: str, *, promotion: PromotionParams, tracking: TrackingParams) -> Decision:
    """Make the target `champion` if it is better than the version that is champion now.

    `target`: a version's number, an alias, a receipt's path or a models:/ URI. Where there is no
    champion, the target is promoted unless a version that was measured on the same clips is better
    than it. Every decision leaves a receipt in the artifacts of the target's run.
    Raises ValueError for a target that is not registered here; StoreUnreachable.
    """
    with open_champion(tracking) as champion:
        candidate, holder = champion.find(target), champion.holder()
        if candidate == holder:
            return Decision("kept", f"{candidate} is {CHAMPION} already", candidate.number)
        problem = _problem(champion, candidate, holder)
        if problem:
            compared: list[tuple[Version, Comparison]] = []
        elif holder is not None:
            compared = _challenge(champion, candidate, holder, promotion)
        else:
            compared = _challenged(champion, candidate, promotion)
        decision = _decide(candidate, holder, problem, compared)
        receipt = {
            **asdict(decision),
            "candidate": asdict(candidate),
            "challenger": "candidate" if holder else "rival",
            "rivals": [{**asdict(rival), **asdict(found)} for rival, found in compared],
            "rule": promotion.model_dump(),
        }
        address = champion.note(candidate, receipt)
        if decision.outcome == "promoted":
            champion.move(candidate, "promoted", why=decision.reason, receipt=address)
    return decision


def promote_first_of(
    targets: Iterable[str], *, promotion: PromotionParams, tracking: TrackingParams
) -> list[Decision]:
    """Gate the first target, and the next ones only as long as there is no champion at all."""
    decisions = []
    for target in targets:
        decisions.append(run_promote(target, promotion=promotion, tracking=tracking))
        if decisions[-1].champion is not None:
            break
    return decisions


def _problem(champion: Champion, candidate: Version, holder: Version | None) -> str | None:
    """Why there is nothing to compare; None if there is."""
    if candidate.digest is None:
        again = f"`dvc repro --force --single-item register@{candidate.model}`"
        return f"it was not measured on held-out clips: register it again ({again})"
    metrics = champion.metrics(candidate)
    # MLflow's databases store an infinite metric as the largest float.
    broken = sorted(k for k, v in metrics.items() if not abs(v) < sys.float_info.max)
    if broken:
        return f"its metrics are non-finite: {', '.join(broken)}"
    if metrics.get("eval/held_out/n") == 0:
        return "params held out no clips: set held_out.clips and train again"
    if holder is not None and holder.digest != candidate.digest:
        return (
            f"{CHAMPION} {holder} was measured on other held-out clips. To begin anew on these, "
            f"remove the alias {CHAMPION} on the model's page (`r1omni ui`) and promote again"
        )
    return None


def _challenge(
    champion: Champion, candidate: Version, holder: Version, promotion: PromotionParams
) -> list[tuple[Version, Comparison]]:
    """Whether the candidate is better than the champion."""
    own, other = _outcomes(champion, candidate), _outcomes(champion, holder)
    return [(holder, compare(own, other, promotion))]


def _challenged(
    champion: Champion, candidate: Version, promotion: PromotionParams
) -> list[tuple[Version, Comparison]]:
    """Whether each version that was measured on the same clips is better than the candidate."""
    own = _outcomes(champion, candidate)
    return [
        (rival, compare(_outcomes(champion, rival), own, promotion))
        for rival in champion.measured(str(candidate.digest))
        if rival != candidate
    ]


def _outcomes(champion: Champion, version: Version) -> Outcomes:
    """The version's outcomes. Raises ValueError if its file is not the one that was registered."""
    with champion.held_out(version) as path:
        digest = held_out_note(path)["digest"]
        if digest != version.digest:
            raise ValueError(f"{path}: {version} was measured on other clips: {digest[:12]}")
        return outcomes_of(read_predictions(Path(path)))


def _decide(
    candidate: Version,
    holder: Version | None,
    problem: str | None,
    compared: Sequence[tuple[Version, Comparison]],
) -> Decision:
    number = None if holder is None else holder.number
    if problem:
        return Decision("refused", f"{candidate} is refused: {problem}", number)
    winners = [(rival, found) for rival, found in compared if found.better]
    if holder is not None and not winners:
        ((_, found),) = compared
        reason = f"{holder} stays {CHAMPION}, not {candidate}: {found.reason}"
        return Decision("kept", reason, number)
    if holder is None and winners:
        rival, found = winners[0]
        return Decision(
            "kept", f"{candidate} is not promoted: {rival} is better, {found.reason}", None
        )
    if winners:
        reason = winners[0][1].reason
    else:
        others = ", ".join(str(rival) for rival, _ in compared) or "there is no other"
        reason = f"the first, and no version measured on the same clips is better ({others})"
    return Decision("promoted", f"{candidate} is now {CHAMPION}: {reason}", candidate.number)
