"""Made-up audits of four models: the numbers are of the default's size, the clips are drawn.

A fixture for the report's pictures; nothing here was measured by the audit.
"""

import re
from pathlib import Path

import numpy as np
from known_labels import LABELS

from r1omni.corpora.synthetic.attributes import ATTRIBUTES, FACE, LEVELS, draw_latent
from r1omni.corpora.synthetic.texts import rationale, statements
from r1omni.evaluation.audit_results import (
    AuditedClaim,
    AuditedClip,
    AuditResults,
    Measured,
    write_audit,
    write_audited_clips,
)
from r1omni.prompts import AnswerMode

ATTACK = "<script>alert('voice')</script>"
MODES: dict[str, AnswerMode] = {
    "base": "direct", "cold_start": "reasoned", "label_sft": "direct", "grpo": "reasoned",
}  # fmt: skip

_MEDIA = {  # base, cold_start, label_sft, grpo
    "shapley.audio_share": (0.102, 0.444, 0.589, 0.517),
    "shapley.label.audio_share": (0.14, 0.456, 0.594, 0.521),
    "shapley.observer_share": (0.5, 0.5, 0.5, 0.5),
    "heard_only.war": (0.04, 0.23, 0.76, 0.53),
    "seen_only.war": (0.21, 0.70, 0.76, 0.76),
    "absent.audio.war": (0.16, 0.35, 0.38, 0.40),
    "absent.video.war": (0.15, 0.33, 0.45, 0.39),
    "swapped.audio.war": (0.14, 0.29, 0.29, 0.32),
    "swapped.video.war": (0.08, 0.26, 0.43, 0.37),
    "media_swap.audio.answer_changed": (0.12, 0.597, 0.64, 0.623),
    "media_swap.video.answer_changed": (0.55, 0.66, 0.61, 0.60),
}
_REASONED = {  # cold_start, grpo
    "rationale.swap_unchanged": (0.498, 0.713), "rationale.swap_follows": (0.231, 0.101),
    "rationale.swap_form_unchanged": (0.675, 0.865), "rationale.swap_form_follows": (0.157, 0.062),
    "rationale.reversed_changed": (0.045, 0.02), "rationale.reader_changed": (0.85, 0.84),
    "rationale.reliance": (0.053, 0.024),
    "media_swap.audio.follows": (0.892, 0.88), "media_swap.audio.kept": (0.798, 0.755),
    "media_swap.video.follows": (0.734, 0.716), "media_swap.video.kept": (0.811, 0.76),
    "absence.voice_claims_in_silence": (0.998, 1.0), "absence.face_claims_in_dark": (0.999, 1.0),
    "grounding.face.supported": (0.74, 0.75), "grounding.face.contradicted": (0.11, 0.10),
    "grounding.face.specificity": (0.41, 0.42),
    "grounding.voice.supported": (0.88, 0.85), "grounding.voice.contradicted": (0.09, 0.11),
    "grounding.voice.specificity": (0.76, 0.69),
    "reader.answers.war": (0.671, 0.698), "reader.answers.uar": (0.63, 0.65),
    "reader.same": (0.771, 0.824),
    "certainty.face.auc": (0.75, 0.75), "certainty.face.supported_at_70": (0.86, 0.862),
    "certainty.face.supported_at_100": (0.779, 0.792),
    "certainty.voice.auc": (0.83, 0.83), "certainty.voice.supported_at_70": (0.95, 0.947),
    "certainty.voice.supported_at_100": (0.893, 0.874),
}  # fmt: skip


def write_audits(folder: Path, clips: int = 40) -> Path:
    """Write MODEL.json and MODEL.parquet of four models, `clips` clips of each corpus."""
    for model, mode in MODES.items():
        write_audit(AuditResults(model=model, mode=mode, corpora=_numbers(model)),
                    folder / f"{model}.json")  # fmt: skip
        write_audited_clips(_clips(model, clips), folder / f"{model}.parquet")
    return folder


def _numbers(model: str) -> dict[str, dict[str, Measured]]:
    values = {key: row[list(MODES).index(model)] for key, row in _MEDIA.items()}
    if MODES[model] == "reasoned":
        values |= {key: row[model == "grpo"] for key, row in _REASONED.items()}
        rng = np.random.default_rng(len(model))
        for name in ATTRIBUTES:
            truth = rng.uniform(0.7, 0.95)
            values |= {
                f"grounding.attribute.{name}.supported": truth - 0.03,
                f"grounding.attribute.{name}.contradicted": 0.6 * (1 - truth),
                f"grounding.attribute.{name}.reliability": rng.uniform(0.9, 1.0),
            }
    rng = np.random.default_rng(3)
    by_corpus = {"all": {key: _measured(value, 480) for key, value in values.items()}}
    for corpus in LABELS:
        moved = {k: min(max(v + rng.normal(0, 0.02), 0), 1) for k, v in values.items()}
        by_corpus[corpus] = {key: _measured(value, 160) for key, value in moved.items()}
    return by_corpus


def _measured(value: float, n: int) -> Measured:
    reach = 1.96 * (max(value * (1 - value), 0.0) / n) ** 0.5
    return Measured(value=value, low=max(value - reach, 0), high=min(value + reach, 1), n=n)


def _clips(model: str, count: int) -> list[AuditedClip]:
    rng = np.random.default_rng(5)
    gain = {"base": 0.3, "cold_start": 0.8, "label_sft": 1.3, "grpo": 1.2}[model]
    found = []
    for corpus, labels in LABELS.items():
        for i in range(count):
            label = labels[i % len(labels)]
            levels = dict(draw_latent(label, rng, noise=0.2, shortcut=0.0).levels)
            face, voice = (sum(levels[a] != 0 for a in ATTRIBUTES if (a in FACE) == of)
                           for of in (True, False))  # fmt: skip
            answer = label if rng.random() < 0.7 else str(rng.choice(labels))
            clip = AuditedClip(
                f"{corpus}/{i:03d}", corpus, label, answer,
                phi_video=float(gain * (0.4 * face + rng.normal(0, 0.7))),
                phi_audio=float(gain * (0.4 * voice + rng.normal(0, 0.7))),
            )  # fmt: skip
            if MODES[model] == "reasoned":
                clip = _explained(clip, levels, rng)
            found.append(clip)
    return found


def _explained(clip: AuditedClip, levels: dict[str, int], rng: np.random.Generator) -> AuditedClip:
    said = {k: v if rng.random() < 0.8 else int(rng.choice(LEVELS)) for k, v in levels.items()}
    text, muted, dark, turned = (
        rationale(spoken, rng)
        for spoken in (said, said | dict.fromkeys(set(levels) - set(FACE), 0), said,
                       {k: -v for k, v in said.items()})
    )  # fmt: skip
    if clip.label == "disgust":
        text += f" {ATTACK}"
    claims = []
    for attribute, level in statements(text).items():
        word = ATTRIBUTES[attribute][level + 1]
        found = re.search(rf"\b{word}\b", text.lower())
        right = levels[attribute] == level
        p = rng.beta(8, 1) if right else rng.beta(1, 4)
        if found is not None:
            side = "face" if attribute in FACE else "voice"
            claims.append(
                AuditedClaim(side, attribute, level, *found.span(),
                             None if rng.random() < 0.08 else float(p),
                             float(rng.beta(6, 1.5)), float(rng.normal(0.3, 0.6)))
            )  # fmt: skip
    return AuditedClip(
        clip.clip_id, clip.corpus, clip.label, clip.prediction, text, clip.phi_video,
        clip.phi_audio, muted, "sad", dark, "fear", turned, clip.prediction, "anxious",
        tuple(claims),
    )  # fmt: skip
