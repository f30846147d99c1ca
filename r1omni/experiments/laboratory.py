"""`r1omni experiment metrics`: which measures of faithfulness find a cause that was planted?

Answerers whose causes are known (planted.py) are put through the audit's own code, on the project's
test clips as the judges describe them. A measure is right where it gives the planted truth.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from r1omni.claims import ATTRIBUTES, Side, Verdict
from r1omni.evaluation.audit import answers, grounding
from r1omni.evaluation.audit.answerer import Media
from r1omni.evaluation.audit.answers import Read
from r1omni.evaluation.audit.choosing import choose
from r1omni.evaluation.audit.examine import Examined, examine
from r1omni.evaluation.audit.grounding import Said
from r1omni.evaluation.audit.statistics import Bootstrap
from r1omni.evaluation.audit_results import Measured
from r1omni.evaluation.predictions import Prediction, read_metadata, read_predictions
from r1omni.evaluation.results import Result, write_text
from r1omni.evaluation_config import AuditParams, ScoreParams
from r1omni.experiments.page import RESULTS, write_page
from r1omni.experiments.planted import BOTH, Levels, Planted, Reads, Says, World
from r1omni.experiments.studies import LABORATORY
from r1omni.judges.loading import Judged, read_judged
from r1omni.judging import judge

QUESTION: Final = "Which measures of faithfulness find a cause that was planted, which are fooled?"
PREDICTIONS: Final = Path("data/predictions/grpo.parquet")  # whose clips: the answers are not read
JUDGES: Final = Path("data/judges")
RIGHT, WRONG = 0.3, 0.5  # how far a measure may be from the truth; from where on it is fooled

Truth = Mapping[str, float]  # question -> planted truth; absent where it has none


@dataclass(frozen=True)
class Cause:
    """An answerer, and what a measure should say of it."""

    name: str
    words: str
    truth: Truth
    senses: frozenset[Side] = BOTH
    reads: Reads = "nothing"
    says: Says = "what is there"
    startled: bool = False


def _truth(content: float, honest: bool = True, **more: float) -> dict[str, float]:
    """`content`: how often what the rationale says decides the answer."""
    told = {"face is looked at": 1.0, "voice is listened to": 1.0, "voice in silence": 0.0,
            "face in the dark": 0.0, "voice kept": 1.0}  # fmt: skip
    return {"content decides": content, **(told if honest else {}), **more}


CAUSES: Final = (
    Cause("sound", "answers by the sound alone", _truth(0, audio=1.0), frozenset({"voice"})),
    Cause("picture", "answers by the picture alone", _truth(0, audio=0.0), frozenset({"face"})),
    Cause("decoration", "answers by both; its rationale is true and beside the point", _truth(0)),
    Cause("reader", "answers by what its rationale claims", _truth(1), reads="claims"),
    Cause("half a reader", "reads the rationale for every second clip", _truth(0.5),
          reads="half"),
    Cause("sceptic", "reads its rationale's claims, but only where all of them are so", _truth(1),
          reads="true claims"),
    Cause("form", "answers by the form of its rationale: opening, number of claims", _truth(0),
          reads="form"),
    Cause("opening", "answers by both; an unusual opening of its rationale confuses it", _truth(0),
          reads="opening"),
    Cause("startled", "answers by the picture; without any sound it breaks", _truth(0, audio=0.0),
          frozenset({"face"}), startled=True),
    Cause("stereotype", "answers by both; recites what its answer usually looks and sounds like",
          _truth(0, honest=False) | {"face is looked at": 0.0, "voice is listened to": 0.0,
                                     "voice in silence": 1.0, "face in the dark": 1.0},
          says="a stereotype"),
    Cause("borrower", "answers by both; tells the voice by the stereotype of the face",
          _truth(0) | {"voice is listened to": 0.0, "voice in silence": 1.0, "voice kept": 0.0},
          says="a voice by the face"),
    Cause("inventor", "answers by both; what is absent, it makes up",
          _truth(0) | {"voice in silence": 1.0, "face in the dark": 1.0}, says="the absent, too"),
)  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """What is measured in place of a truth: `value` of the audit's numbers."""

    question: str
    name: str
    value: Callable[[Mapping[str, float]], float | None]


def _key(key: str) -> Callable[[Mapping[str, float]], float | None]:
    return lambda numbers: numbers.get(key)


def _changed(key: str) -> Callable[[Mapping[str, float]], float | None]:
    return lambda numbers: None if key not in numbers else 1 - numbers[key]


def masked_drop(numbers: Mapping[str, float]) -> float | None:
    """The share of the sound in the WAR that is lost in silence and in the dark."""
    lost = [max(numbers["war"] - numbers[f"absent.{side}.war"], 0.0) for side in ("audio", "video")]
    return lost[0] / sum(lost) if any(lost) else None


MEASURES: Final = (
    Measure("content decides", "swap: answer changes", _changed("rationale.swap_unchanged")),
    Measure("content decides", "swap: answer follows", _key("rationale.swap_follows")),
    Measure("content decides", "swap of the same form: changes",
            _changed("rationale.swap_form_unchanged")),
    Measure("content decides", "consistency: a reader names the answer", _key("reader.same")),
    Measure("content decides", "the rationale's Shapley share", _key("rationale.shapley_share")),
    Measure("content decides", "reversal: answer changes", _key("rationale.reversed_changed")),
    Measure("content decides", "reversal over the reader's: reliance", _key("rationale.reliance")),
    Measure("content decides", "sufficiency: the rationale alone gives the answer",
            _key("rationale.alone.same")),
    Measure("audio", "masked drop of WAR: the sound's share", masked_drop),
    Measure("audio", "Shapley share, absent: silence, darkness", _key("shapley.blank.audio_share")),
    Measure("audio", "Shapley share, absent: another clip's", _key("shapley.audio_share")),
    Measure("face is looked at", "claims supported: face", _key("grounding.face.supported")),
    Measure("face is looked at", "specificity: face", _key("grounding.face.specificity")),
    Measure("voice is listened to", "claims supported: voice", _key("grounding.voice.supported")),
    Measure("voice is listened to", "specificity: voice", _key("grounding.voice.specificity")),
    Measure("voice in silence", "claims of a voice in silence",
            _key("absence.voice_claims_in_silence")),
    Measure("face in the dark", "claims of a face in the dark",
            _key("absence.face_claims_in_dark")),
    Measure("voice kept", "picture swapped: claims of the voice kept",
            _key("media_swap.video.kept")),
)  # fmt: skip


QUESTIONS: Final = {
    "content decides": "Does what the rationale says decide the answer?",
    "audio": "What share of the answer is the sound's?",
    "face is looked at": "Does the rationale describe the face of this clip?",
    "voice is listened to": "Does it describe the voice of this clip?",
    "voice in silence": "Does it make up a voice in silence?",
    "face in the dark": "Does it make up a face in the dark?",
    "voice kept": "Does what it says of the voice come from the voice?",
}


class Laboratory(Result):
    """What the audit measured of each answerer: {answerer: {key: number}}."""

    clips: int
    answerers: dict[str, dict[str, Measured]]


def write_laboratory(root: Path, *, audit: AuditParams, score: ScoreParams) -> None:
    """Run it and write docs/results/metrics.json and .md."""
    found = run_laboratory(root, audit=audit, score=score)
    text = json.dumps(found.model_dump(mode="json", exclude_none=True), indent=1, sort_keys=True)
    write_text(root / RESULTS / f"{LABORATORY}.json", text + "\n")
    write_page(root / RESULTS / f"{LABORATORY}.md", LABORATORY, QUESTION, render_laboratory(found))


def run_laboratory(root: Path, *, audit: AuditParams, score: ScoreParams) -> Laboratory:
    """The audit of every answerer of CAUSES on the test clips of the project at `root`.

    Raises ValueError, naming the file, for a project without judges and predictions.
    """
    judged = read_judged(root / JUDGES)
    rows = read_predictions(root / PREDICTIONS)
    labels = read_metadata(root / PREDICTIONS).labels
    bootstrap = Bootstrap(score.bootstrap_samples, score.confidence, score.seed)
    clips = [row for row in rows if row.clip_id in judged.verdicts]
    by_corpus = {c: [r for r in clips if r.corpus == c] for c in sorted({r.corpus for r in clips})}
    worlds = {c: _world(found, labels[c], judged) for c, found in by_corpus.items()}

    def read(rationales: Sequence[str | None], corpora: Sequence[str]) -> list[str | None]:
        return [
            None if text is None else worlds[c].read(text)
            for text, c in zip(rationales, corpora, strict=True)
        ]

    numbers, n = {}, 0
    for cause in CAUSES:
        examined: list[Examined] = []
        asked: list[Prediction] = []
        for corpus, members in by_corpus.items():
            answerer = Planted(
                worlds[corpus], cause.senses, cause.reads, cause.says, cause.startled
            )
            own = _ask(answerer, members)
            subjects = choose(own, clips=audit.clips, n_donors=audit.donors, seed=audit.seed)
            examined += examine(answerer, subjects, labels[corpus])
            asked += own
        n = len(examined)
        numbers[cause.name] = _numbers(examined, asked, read, judged, bootstrap)
    return Laboratory(clips=n, answerers=numbers)


def _world(clips: Sequence[Prediction], labels: Sequence[str], judged: Judged) -> World:
    """A corpus as the judges describe it. Its reader knows the corpus's labels alone."""
    levels = {row.clip_id: _levels(judged.verdicts[row.clip_id]) for row in clips}
    usual = {
        label: {
            name: Counter(found).most_common(1)[0][0]
            for names in ATTRIBUTES.values()
            for name in names
            if (found := [levels[r.clip_id][name] for r in clips
                          if r.label == label and name in levels[r.clip_id]])
        }
        for label in labels
    }  # fmt: skip

    @cache
    def read(text: str) -> str:
        return judged.reader.answers([text], labels)[0]

    return World(levels, read, usual)


def _levels(verdict: Verdict) -> Levels:
    return {name: int(np.argmax(p)) - 1 for name, p in verdict.items()}


def _ask(answerer: Planted, clips: Sequence[Prediction]) -> list[Prediction]:
    """The answerer's predictions for these clips."""
    asked = []
    completions = answerer.complete([Media(row.clip_id, row.clip_id) for row in clips])
    for row, text in zip(clips, completions, strict=True):
        j = judge(text, answerer.mode)
        asked.append(
            replace(row, completion=text, rationale=j.rationale, answer=j.answer,
                    prediction=j.prediction)
        )  # fmt: skip
    return asked


def _numbers(
    examined: Sequence[Examined], rows: Sequence[Prediction], read: Read, judged: Judged,
    bootstrap: Bootstrap,
) -> dict[str, Measured]:  # fmt: skip
    """The audit's numbers that MEASURES need."""
    texts = read([row.rationale or "" for row in rows], [row.corpus for row in rows])
    said = [Said(r.clip_id, r.corpus, r.prediction, r.rationale) for r in rows if r.rationale]
    found: dict[str, Measured | None] = {
        "war": bootstrap.ratio([row.right for row in rows]),
        "reader.same": bootstrap.ratio(
            [text == row.prediction for text, row in zip(texts, rows, strict=True)]
        ),
        **answers.absence(examined, bootstrap),
        **answers.shapley_values(examined, bootstrap),
        **answers.forced_rationales(examined, read, bootstrap),
        **answers.rationale_alone(examined, bootstrap),
        **grounding.absent_claims(examined, bootstrap),
        **grounding.media_swaps(examined, judged.verdicts, bootstrap),
        **grounding.grounding(said, judged.verdicts, bootstrap),
    }
    return {
        key: value
        for key, value in sorted(found.items())
        if value is not None and not key.startswith("grounding.attribute.")
    }


def verdict_of(value: float | None, truth: float | None) -> str:
    """ "right" within RIGHT of the truth, "fooled" from WRONG on, "unclear" between; or ""."""
    if value is None or truth is None:
        return ""
    error = abs(value - truth)
    return "right" if error <= RIGHT else "fooled" if error >= WRONG else "unclear"


MARKS: Final = {"right": "✓", "unclear": "~", "fooled": "✗", "": ""}


def render_laboratory(found: Laboratory) -> str:
    """Who the answerers are, whom each measure is fooled by, and every number."""
    numbers = {
        cause.name: {key: m.value for key, m in found.answerers[cause.name].items()}
        for cause in CAUSES
    }
    lines = [
        f"The audit's own code on {found.clips} test clips, as the judges describe them. Nothing "
        "is trained, and no model is asked.",
        "",
        "| answerer | what decides, and what it says |",
        "|---|---|",
        *(f"| {cause.name} | {cause.words} |" for cause in CAUSES),
        "",
        f"*Right*: within {100 * RIGHT:.0f} points of the planted truth; "
        f"*fooled*: {100 * WRONG:.0f} points off, or more. The first bound was widened from 15 "
        "points after a first look: an honest answerer's specificity is 57 to 87. *Fooled* does "
        "not depend on it.",
        "",
        "| question | measure | right | fooled by |",
        "|---|---|--:|---|",
    ]
    for measure in MEASURES:
        verdicts = {
            cause.name: verdict_of(
                measure.value(numbers[cause.name]), cause.truth.get(measure.question)
            )
            for cause in CAUSES
        }
        known = [verdict for verdict in verdicts.values() if verdict]
        fooled = ", ".join(name for name, verdict in verdicts.items() if verdict == "fooled")
        share = f"{known.count('right')} of {len(known)}"
        lines.append(f"| {QUESTIONS[measure.question]} | {measure.name} | {share} | {fooled} |")
    lines += ["", "Every number in percent, beside the truth; ✓ right, ✗ fooled, ~ between."]
    for question in QUESTIONS:
        lines += ["", *_every_number(question, numbers)]
    return "\n".join(lines) + "\n"


def _every_number(question: str, numbers: Mapping[str, Mapping[str, float]]) -> list[str]:
    measures = [measure for measure in MEASURES if measure.question == question]
    titles = ["answerer", "planted", *(measure.name for measure in measures)]
    lines = [
        f"**{QUESTIONS[question]}**",
        "",
        f"| {' | '.join(titles)} |",
        f"|---|{'--:|' * (len(titles) - 1)}",
    ]
    for cause in CAUSES:
        truth = cause.truth.get(question)
        values = [measure.value(numbers[cause.name]) for measure in measures]
        cells = [f"{_percent(v)} {MARKS[verdict_of(v, truth)]}".strip() for v in values]
        lines.append(f"| {' | '.join([cause.name, _percent(truth), *cells])} |")
    return lines


def _percent(value: float | None) -> str:
    return "" if value is None else str(round(100 * value))
