"""The audits of all models side by side, as text: what an answer depends on, and what is said."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from r1omni.evaluation.audit_results import ALL, AuditResults, Measured, read_audit

# A part of the table: (what the row says, the key).
PARTS: Final[tuple[tuple[str, tuple[tuple[str, str], ...]], ...]] = (
    ("What decides the answer", (
        ("share of the sound, absent: another clip's", "shapley.audio_share"),
        ("share of the sound, absent: silence, darkness", "shapley.blank.audio_share"),
        ("share of the rationale beside picture and sound", "rationale.shapley_share"),
        ("WAR in silence", "absent.audio.war"),
        ("WAR in the dark", "absent.video.war"),
        ("WAR, emotions that are only heard (synthetic)", "heard_only.war"),
        ("WAR, emotions that are only seen (synthetic)", "seen_only.war"),
    )),
    ("What moves the answer: share that changes", (
        ("every claim of the rationale reversed", "rationale.reversed_changed"),
        ("… a reader of that text", "rationale.reader_changed"),
        ("reliance: the first over the second", "rationale.reliance"),
        ("the rationale alone, dark and silent: same answer", "rationale.alone.same"),
        ("… every claim of it reversed: the answer changes", "rationale.alone.reversed_changed"),
        ("another clip's sound", "media_swap.audio.answer_changed"),
        ("another clip's picture", "media_swap.video.answer_changed"),
    )),
    ("What moves the rationale", (
        ("another sound: claims of the voice that follow it", "media_swap.audio.follows"),
        ("another sound: claims of the face that stay", "media_swap.audio.kept"),
        ("another picture: claims of the face that follow it", "media_swap.video.follows"),
        ("another picture: claims of the voice that stay", "media_swap.video.kept"),
        ("describes a voice in silence", "absence.voice_claims_in_silence"),
        ("describes a face in the dark", "absence.face_claims_in_dark"),
    )),
    ("Are the claims so? By the judges", (
        ("face: supported", "grounding.face.supported"),
        ("face: contradicted", "grounding.face.contradicted"),
        ("face: specificity (0 recites, 1 describes)", "grounding.face.specificity"),
        ("voice: supported", "grounding.voice.supported"),
        ("voice: contradicted", "grounding.voice.contradicted"),
        ("voice: specificity", "grounding.voice.specificity"),
    )),
    ("Who answers from the rationale: the reader's WAR", (
        ("all test clips", "reader.answers.war"),
        ("emotions that are only heard (synthetic)", "reader.answers.heard_only.war"),
        ("says what the model says (plausibility)", "reader.same"),
        ("audited clips: the model itself", "best_of.greedy.war"),
        ("… its likeliest label of the corpus", "closed.war"),
        ("… behind its rationale alone, dark and silent", "rationale.alone.war"),
        ("… the reader", "best_of.greedy.reader.war"),
        ("… the reader over all samples", "best_of.reader.war"),
        ("… the reader, of the sample that judges choose", "best_of.judges.reader.war"),
        ("… a vote of the samples", "best_of.vote.war"),
    )),
)  # fmt: skip
MISSING: Final = "-"
LABEL_WIDTH: Final = 52


def audit_table(folder: Path, corpus: str = ALL) -> str:
    """The numbers of every model audited in the folder, in percent, ± half the interval.

    Raises ValueError if it holds no audit, or none of the corpus.
    """
    order = ("base", "cold_start", "label_sft", "grpo")
    paths = sorted(folder.glob("*.json"), key=lambda path: (_place(path.stem, order), path.stem))
    audits = [read_audit(path) for path in paths]
    if not audits:
        raise ValueError(f"{folder}: holds no audit; `r1omni repro` makes them")
    if not any(corpus in audit.corpora for audit in audits):
        known = sorted({name for audit in audits for name in audit.corpora})
        raise ValueError(f"{folder}: no audit of {corpus!r}; audited: {', '.join(known)}")
    head = f"{'':{LABEL_WIDTH}}" + "".join(f"{audit.model:>14}" for audit in audits)
    lines = [f"Audit of {corpus} · in %, ± half the bootstrap interval", head]
    for title, rows in PARTS:
        found = [(words, [audit.find(key, corpus) for audit in audits]) for words, key in rows]
        measured = [row for row in found if any(row[1])]
        if measured:
            lines += ["", title, *(_line(words, values) for words, values in measured)]
    return "\n".join([*lines, "", *_counts(audits, corpus)]) + "\n"


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _line(words: str, values: Sequence[Measured | None]) -> str:
    return f"{words:{LABEL_WIDTH}}" + "".join(f"{_percent(value):>14}" for value in values)


def _percent(measured: Measured | None) -> str:
    if measured is None:
        return MISSING
    value = f"{100 * measured.value:.1f}"
    if measured.low is None or measured.high is None:
        return value
    return f"{value} ± {50 * (measured.high - measured.low):.1f}"


def _counts(audits: Sequence[AuditResults], corpus: str) -> list[str]:
    """How many clips the numbers are of."""
    counts = []
    for key, words in (("absent.audio.war", "asked again"), ("reader.answers.war", "read")):
        n = {found.n for audit in audits if (found := audit.find(key, corpus))}
        counts += [f"{'/'.join(map(str, sorted(n)))} clips {words}"] if n else []
    return [f"{', '.join(counts)}; `data/audit/*.json` has n and interval of every number."]
