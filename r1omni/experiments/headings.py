"""The columns of a study's tables, and the numbers of metrics.json and data/audit behind them."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from r1omni.evaluation.audit_results import ALL, AuditResults, Measured
from r1omni.evaluation.results import CorpusMetrics, RationaleTruth

CORPORA: Final = ("dfew", "mafw", "ravdess")
SIDES: Final = ("face", "voice")


@dataclass(frozen=True)
class Heading:
    """A column: one number, or several that are divided by slashes."""

    title: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    title: str
    headings: tuple[Heading, ...]


def _both(title: str, key: str) -> Heading:
    return Heading(title, tuple(key.format(side=side) for side in SIDES))


_ANSWERS: Final = (
    *(Heading(c.upper(), (f"{c}.war", f"{c}.uar")) for c in CORPORA),
    Heading("all", (f"{ALL}.war", f"{ALL}.uar")),
)
_BESIDE: Final = (
    Heading("reader's WAR", (f"{ALL}.reader.war",)),
    Heading("well formed", (f"{ALL}.format",)),
    Heading("follows the scene", ("follows_scene",)),
)
_HEARD_ONLY: Final = Heading("heard-only WAR", ("heard_only.war",))  # of the audit
ACCURACY: Final = Table("Accuracy: WAR / UAR", (*_ANSWERS, _HEARD_ONLY, *_BESIDE))
SCORES: Final = Table("Accuracy: WAR / UAR", (*_ANSWERS, *_BESIDE))
EARLIER: Final = ("base", "cold_start", "label_sft")
GAINS: Final = Table(
    "Points of WAR more than base / cold_start / label_sft (paired)",
    tuple(Heading(c.upper(), tuple(f"{c}.gain.{model}" for model in EARLIER)) for c in CORPORA),
)
_HELD_OUT: Final = Heading("held-out clips: WAR / UAR", ("held_out.war", "held_out.uar"))
HELD_OUT_END: Final = Table("At the training's end", (_HELD_OUT,))
HELD_OUT: Final = Table(
    "At the training's end",
    (
        _HELD_OUT,
        Heading("groups without variance", ("rollout.zero_variance_groups",)),
        Heading("KL", ("train.kl",)),
        Heading("clipped", ("train.clipped",)),
    ),
)
CAUSES: Final = Table(
    "What the answer rests on",
    (
        Heading("audio's share", ("shapley.audio_share",)),
        Heading("WAR in silence", ("absent.audio.war",)),
        Heading("WAR in the dark", ("absent.video.war",)),
        Heading("reversed: changed", ("rationale.reversed_changed",)),
        Heading("reader's", ("rationale.reader_changed",)),
        Heading("reliance", ("rationale.reliance",)),
        Heading("kept: face / voice", ("media_swap.audio.kept", "media_swap.video.kept")),
    ),
)
CLAIMS: Final = Table(
    "What is claimed",
    (
        Heading("of a voice in silence", ("absence.voice_claims_in_silence",)),
        Heading("of a face in the dark", ("absence.face_claims_in_dark",)),
        _both("true: face / voice", "truth.{side}"),
        _both("specificity by the judges", "grounding.{side}.specificity"),
        _both("specificity by the side file", "truth.{side}.specificity"),
        _both("recall by the side file", "truth.{side}.recall"),
        Heading("says what the reader reads", ("reader.same",)),
    ),
)
ANSWER_PATH: Final = Table(
    "Who answers: WAR",
    (
        Heading("all test clips: the model", (f"{ALL}.war",)),
        Heading("the reader", (f"{ALL}.reader.war",)),
        Heading("RAVDESS: the model", ("ravdess.war",)),
        Heading("the reader", ("ravdess.reader.war",)),
        Heading("heard-only emotions: the model", ("heard_only.war",)),
        Heading("the reader", ("reader.answers.heard_only.war",)),
        Heading("audited clips: the model", ("best_of.greedy.war",)),
        Heading("the model, by its rationale alone", ("rationale.alone.war",)),
        Heading("… says the same", ("rationale.alone.same",)),
        Heading("… reversed: changed", ("rationale.alone.reversed_changed",)),
        Heading("the reader", ("best_of.greedy.reader.war",)),
        Heading("a vote of the samples", ("best_of.vote.war",)),
        Heading("the reader of all samples", ("best_of.reader.war",)),
        Heading("the judges' sample", ("best_of.judges.war",)),
        Heading("the reader of it", ("best_of.judges.reader.war",)),
    ),
)
CHOSEN: Final = Table(
    "The rationales, greedy and as the judges choose them among samples, by the side file",
    (
        _both("true, greedy: face / voice", "greedy.{side}"),
        _both("true, the judges' sample", "best.{side}"),
        _both("specificity, greedy", "greedy.{side}.specificity"),
        _both("specificity, the judges' sample", "best.{side}.specificity"),
    ),
)


def read_numbers(
    corpora: Mapping[str, CorpusMetrics], audit: AuditResults | None
) -> dict[str, Measured]:
    """Every number that was measured of one model, by the keys of the headings.

    `corpora`: its metrics by test corpus. Numbers of all corpora are over all clips. What could not
    be measured is absent, never 0.
    """
    found = dict(audit.corpora.get(ALL, {})) if audit is not None else {}
    for corpus, m in corpora.items():
        for key, value, (low, high) in (("war", m.war, m.war_ci), ("uar", m.uar, m.uar_ci)):
            found[f"{corpus}.{key}"] = Measured(value=value, low=low, high=high, n=m.n)
        for model, gain in m.gain_over.items():
            ends = dict(zip(("low", "high"), gain.war_ci or (), strict=False))
            found[f"{corpus}.gain.{model}"] = Measured(value=gain.war, n=m.n, **ends)
        if m.reader is not None:
            low, high = m.reader.war_ci
            found[f"{corpus}.reader.war"] = Measured(
                value=m.reader.war, low=low, high=high, n=m.reader.n
            )
    every = list(corpora.values())
    pooled = {
        f"{ALL}.war": _mean((m.war, m.n) for m in every),
        f"{ALL}.uar": _pooled_recall(every),
        f"{ALL}.format": _mean((m.format_rate, m.n) for m in every),
        f"{ALL}.reader.war": _mean((m.reader.war, m.n) for m in every if m.reader is not None),
        "follows_scene": _mean(
            (m.follows_scene.share, m.follows_scene.n) for m in every if m.follows_scene is not None
        ),
        **_truth("truth", [m.rationale_truth for m in every if m.rationale_truth is not None]),
        **_truth("greedy", [m.best_of.greedy for m in every if m.best_of is not None]),
        **_truth("best", [m.best_of.best for m in every if m.best_of is not None]),
    }
    return found | {key: value for key, value in pooled.items() if value is not None}


def read_end(curves: str) -> dict[str, Measured]:
    """The last value of each of a training's metrics, by their keys with a dot: held_out.war.

    `curves`: a curves.jsonl's text.
    """
    last: dict[str, float] = {}
    for line in curves.splitlines():
        last |= json.loads(line)
    return {
        key.replace("/", "."): Measured(value=value, n=1)
        for key, value in last.items()
        if key != "step"
    }


def _mean(weighted: Iterable[tuple[float | None, int]]) -> Measured | None:
    """The mean of values with weights. None where there is no value."""
    known = [(value, n) for value, n in weighted if value is not None]
    total = sum(n for _, n in known)
    return Measured(value=sum(v * n for v, n in known) / total, n=total) if total else None


def _pooled_recall(corpora: Iterable[CorpusMetrics]) -> Measured | None:
    """UAR over all clips: the mean over labels of the recall over the clips of all corpora."""
    right, clips = defaultdict[str, float](float), defaultdict[str, int](int)
    for m in corpora:
        for label, counts in zip(m.confusion.rows, m.confusion.counts, strict=True):
            if (n := sum(counts)) and label in m.recall:
                right[label] += m.recall[label] * n
                clips[label] += n
    if not clips:
        return None
    recalls = [right[label] / n for label, n in clips.items()]
    return Measured(value=sum(recalls) / len(recalls), n=sum(clips.values()))


def _truth(prefix: str, truths: Iterable[RationaleTruth]) -> dict[str, Measured | None]:
    """Shares of true claims and their like over all corpora, weighted by the side's claims."""
    found, known = {}, list(truths)
    for side in SIDES:
        for kind, suffix in (("", ""), ("_specificity", ".specificity"), ("_recall", ".recall")):
            found[f"{prefix}.{side}{suffix}"] = _mean(
                (getattr(truth, f"{side}{kind}"), _claims(truth, side)) for truth in known
            )
    return found


def _claims(truth: RationaleTruth, side: str) -> int:
    """How many claims of the side there are; in older files all that is known is of both sides."""
    n: int | None = getattr(truth, f"n_{side}")
    return truth.n_statements if n is None else n
