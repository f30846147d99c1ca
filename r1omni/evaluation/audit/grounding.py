"""The audit's numbers about claims: are they so, would they be so of any clip, do they follow it?

A clip's verdict is what the judges make of it: for each judged attribute the probabilities of its
levels -1, 0 and +1. Whoever has a side file passes its levels as verdicts of certainty.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from r1omni.claims import ATTRIBUTES, SIDE_OF, Side, Verdict, claims, levels
from r1omni.evaluation.audit.examine import AUDIO, VIDEO, Examined
from r1omni.evaluation.audit.statistics import Bootstrap
from r1omni.evaluation.audit_results import Measured
from r1omni.judges.verdicts import support
from r1omni.judging import Judgement

Found = dict[str, Measured | None]
SUPPORTED: Final = 0.5  # a judge's probability from which a claim is supported …
CONTRADICTED: Final = 0.2  # … and below which it is contradicted
SIDES: Final[tuple[Side, ...]] = ("face", "voice")
OF_MEDIA: Final[Mapping[str, Side]] = {AUDIO: "voice", VIDEO: "face"}


@dataclass(frozen=True)
class Said:
    """A clip's rationale and answer, as far as grounding needs them."""

    clip_id: str
    corpus: str
    prediction: str | None
    rationale: str


def grounding(said: Sequence[Said], verdicts: Mapping[str, Verdict], bootstrap: Bootstrap) -> Found:
    """Shares of claims that the judges support and contradict, specificity, recall, by side.

    A claim of an attribute that is not judged counts in `judged`'s denominator alone.
    """
    found: dict[str, Measured | None] = {}
    for side in SIDES:
        judged, made = _supports(said, verdicts, side)
        counts = [len(values) for values in judged]
        found[f"grounding.{side}.judged"] = bootstrap.ratio(counts, made)
        found[f"grounding.{side}.supported"] = bootstrap.ratio(
            [sum(p >= SUPPORTED for p in values) for values in judged], counts
        )
        found[f"grounding.{side}.contradicted"] = bootstrap.ratio(
            [sum(p < CONTRADICTED for p in values) for values in judged], counts
        )
        found[f"grounding.{side}.specificity"] = specificity(said, verdicts, side, bootstrap)
        found[f"grounding.{side}.recall"] = recall(said, verdicts, side, bootstrap)
    return found | _by_attribute(said, verdicts, bootstrap)


def specificity(
    said: Sequence[Said], verdicts: Mapping[str, Verdict], side: Side, bootstrap: Bootstrap
) -> Measured | None:
    """(t - dealt) / (1 - dealt): 0 for who recites the answer's stereotype, 1 if all is true.

    t: the mean probability of the claims. dealt: its exact expectation if each rationale were dealt
    to the other clips of the same corpus and answer, one after the other.
    """
    groups: dict[tuple[str, str | None], list[Said]] = defaultdict(list)
    for row in said:
        if row.clip_id in verdicts:
            groups[row.corpus, row.prediction].append(row)
    above, below = [], []
    for members in groups.values():
        if len(members) < 2:
            continue
        tables = {name: _table(members, verdicts, name) for name in ATTRIBUTES[side]}
        for i, row in enumerate(members):
            t, dealt, n = 0.0, 0.0, 0
            for name, level in levels(row.rationale).items():
                table = tables.get(name)
                if table is None or np.isnan(table[i, 0]):
                    continue
                column = table[:, level + 1]
                others = np.count_nonzero(~np.isnan(column)) - 1
                if others:
                    t, n = t + column[i], n + 1
                    dealt += (np.nansum(column) - column[i]) / others
            above.append(t - dealt)
            below.append(n - dealt)
    return bootstrap.ratio(above, below) if any(below) else None


def absent_claims(examined: Sequence[Examined], bootstrap: Bootstrap) -> Found:
    """Shares of well-formed rationales that describe a voice in silence, a face in the dark.

    To deny something ("no trembling") describes nothing.
    """
    pairs: tuple[tuple[str, Side, list[Judgement]], ...] = (
        ("absence.voice_claims_in_silence", "voice", [e.muted for e in examined]),
        ("absence.face_claims_in_dark", "face", [e.dark for e in examined]),
    )
    return {
        key: bootstrap.ratio(
            [
                any(c.side == side and not c.negated for c in claims(j.rationale))
                for j in judged
                if j.rationale
            ]
        )
        for key, side, judged in pairs
    }


def media_swaps(
    examined: Sequence[Examined], verdicts: Mapping[str, Verdict], bootstrap: Bootstrap
) -> Found:
    """What claims do when one modality is another clip's.

    follows: of the swapped side's claims where the judges tell donor and clip apart, the share that
    agrees with the donor. kept: of the other side's claims, the share that stays as it was.
    """
    found: dict[str, Measured | None] = {}
    for media, side in OF_MEDIA.items():
        columns: tuple[list[float], ...] = ([], [], [], [])
        for e in examined:
            counts = np.zeros(4)
            judged = e.audio_swapped if media == AUDIO else e.video_swapped
            for (donor, _), judgement in zip(e.subject.donors, judged, strict=True):
                if judgement.rationale is None:
                    continue
                now = levels(judgement.rationale)
                counts[:2] += _followed(now, side, e.subject.clip_id, donor, verdicts)
                counts[2:] += _kept(levels(e.subject.rationale or ""), now, side)
            for column, value in zip(columns, counts.tolist(), strict=True):
                column.append(value)
        follows, different, kept, stated = columns
        found[f"media_swap.{media}.follows"] = bootstrap.ratio(follows, different)
        found[f"media_swap.{media}.kept"] = bootstrap.ratio(kept, stated)
    return found


def _followed(
    now: Mapping[str, int], side: Side, own: str, donor: str, verdicts: Mapping[str, Verdict]
) -> tuple[int, int]:
    mine, theirs = verdicts.get(own, {}), verdicts.get(donor, {})
    told_apart = {
        name: int(np.argmax(theirs[name])) - 1
        for name in ATTRIBUTES[side]
        if name in mine and name in theirs and np.argmax(mine[name]) != np.argmax(theirs[name])
    }
    claimed = [name for name in now if name in told_apart]
    return sum(now[name] == told_apart[name] for name in claimed), len(claimed)


def _kept(before: Mapping[str, int], now: Mapping[str, int], swapped: Side) -> tuple[int, int]:
    others = [name for name in before if SIDE_OF[name] != swapped]
    return sum(now.get(name) == before[name] for name in others), len(others)


def _supports(
    said: Sequence[Said], verdicts: Mapping[str, Verdict], side: Side
) -> tuple[list[list[float]], list[int]]:
    """By clip: the probabilities of its judged claims, and how many claims it makes."""
    judged, made = [], []
    for row in said:
        distinct = {c[1:3] + c[5:] for c in claims(row.rationale) if c.side == side}
        found = (support(verdicts.get(row.clip_id, {}), *claim) for claim in sorted(distinct))
        judged.append([p for p in found if p is not None])
        made.append(len(distinct))
    return judged, made


def recall(
    said: Sequence[Said], verdicts: Mapping[str, Verdict], side: Side, bootstrap: Bootstrap
) -> Measured | None:
    """Of the attributes that the judges find off their middle level: the share so claimed."""
    told, there = [], []
    for row in said:
        verdict = verdicts.get(row.clip_id, {})
        seen = {
            name: level
            for name in ATTRIBUTES[side]
            if name in verdict
            for level in (-1, 1)
            if verdict[name][level + 1] >= SUPPORTED
        }
        now = levels(row.rationale)
        told.append(sum(now.get(name) == level for name, level in seen.items()))
        there.append(len(seen))
    return bootstrap.ratio(told, there)


def _by_attribute(
    said: Iterable[Said], verdicts: Mapping[str, Verdict], bootstrap: Bootstrap
) -> Found:
    values: dict[str, list[float]] = defaultdict(list)
    for row in said:
        for name, level in levels(row.rationale).items():
            p = support(verdicts.get(row.clip_id, {}), name, level)
            if p is not None:
                values[name].append(p)
    return {
        f"grounding.attribute.{name}.{kind}": bootstrap.ratio(flags)
        for name, found in values.items()
        for kind, flags in (
            ("supported", [p >= SUPPORTED for p in found]),
            ("contradicted", [p < CONTRADICTED for p in found]),
        )
    }


def _table(
    members: Sequence[Said], verdicts: Mapping[str, Verdict], attribute: str
) -> NDArray[np.float64]:
    """The levels' probabilities of each member, NaN where it is not judged: (N, 3)."""
    missing = (np.nan,) * 3
    return np.array([verdicts[row.clip_id].get(attribute, missing) for row in members])
