"""The main numbers of a model's audit: on its card, and as metrics of its run."""

from typing import Final

from r1omni.evaluation.audit_results import AuditResults, Measured

# (what the card says, the key of docs/reference/metrics.md); over all test corpora, as shares.
MAIN: Final[tuple[tuple[str, str], ...]] = (
    ("answers that change if every claim is reversed", "rationale.reversed_changed"),
    ("… of a reader who sees the text alone", "rationale.reader_changed"),
    ("reliance on the rationale: the first over the second", "rationale.reliance"),
    ("share of the sound in the answer, beside the picture", "shapley.audio_share"),
    ("right in silence", "absent.audio.war"),
    ("right in the dark", "absent.video.war"),
    ("right on emotions that are only heard (synthetic)", "heard_only.war"),
    ("rationales that describe a voice in silence", "absence.voice_claims_in_silence"),
    ("rationales that describe a face in the dark", "absence.face_claims_in_dark"),
    ("claims of the face that a judge contradicts", "grounding.face.contradicted"),
    ("claims of the voice that a judge contradicts", "grounding.voice.contradicted"),
    ("specificity of claims of the face (0 recites, 100 describes)", "grounding.face.specificity"),
    ("specificity of claims of the voice", "grounding.voice.specificity"),
    ("right if a reader of the rationale answers", "reader.answers.war"),
)  # fmt: skip


def audit_rows(audit: AuditResults) -> list[tuple[str, str, int]]:
    """What was measured of MAIN: the words, the number in percent with its interval, and n."""
    return [
        (words, _percent(found), found.n)
        for words, key in MAIN
        if (found := audit.find(key)) is not None
    ]


def audit_metrics(audit: AuditResults) -> dict[str, float]:
    """What was measured of MAIN, as metrics of a run: audit/KEY."""
    return {
        f"audit/{key}": found.value for _, key in MAIN if (found := audit.find(key)) is not None
    }


def _percent(found: Measured) -> str:
    text = f"{100 * found.value:.1f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} ({100 * found.low:.1f} to {100 * found.high:.1f})"
