"""Predictions -> metrics.json and DVC's plots. Fast: needs no model, imports no torch."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Final

import pandas as pd

from r1omni.emotion_families import GroupOf
from r1omni.evaluation.affectgpt_wheels import affectgpt_scores, read_wheels
from r1omni.evaluation.audit_results import AuditedClip, read_audited_clips
from r1omni.evaluation.metrics import (
    CALM_POLICIES,
    NONE,
    confusion,
    paired_gain,
    rate,
    with_calm,
)
from r1omni.evaluation.predictions import (
    Prediction,
    TableMetadata,
    read_metadata,
    read_predictions,
)
from r1omni.evaluation.reading import best_of_truth, best_read, measured_truth, rates, reader_rates
from r1omni.evaluation.results import (
    PROTOCOL,
    ConfusionCounts,
    CorpusMetrics,
    GainOver,
    Metrics,
    Rates,
    WordScores,
    write_metrics,
    write_summary,
    write_text,
)
from r1omni.evaluation.truth import Truth, read_truth, scene_following
from r1omni.evaluation.wheels import split_labels, word_scores
from r1omni.evaluation_config import ScoreParams
from r1omni.judges.loading import Judged, read_judged

# The models that a model is compared with: its start, and the one trained on the same labels.
COMPARED: Final[Mapping[str, tuple[str, ...]]] = {
    "cold_start": ("base",),
    "label_sft": ("base",),
    "grpo": ("cold_start", "label_sft"),
}

Rows = Sequence[Prediction]
Answers = Mapping[str, Mapping[str, Rows]]  # model -> corpus -> rows sorted by clip


def run_score(
    predictions: Sequence[Path],
    truth: Sequence[Path],
    out: Path,
    plots: Path,
    summary: Path | None = None,
    judges: Path | None = None,
    audit: Path | None = None,
    *,
    score: ScoreParams,
    backbone: str | None = None,
) -> None:
    """Write metrics.json to `out`, DVC's metrics to `summary`, confusion tables into `plots`.

    `truth`: the synthetic corpora's side files; real corpora have none. `judges`: the folder of the
    stage `judges`; without it there is no reader. `audit`: that of the stage `audit`. `backbone`:
    the models' `model.backbone` in params.yaml. Raises ValueError for predictions that do not
    belong together (see `read_answers`).
    """
    answers, metadata = read_answers(predictions), read_all_metadata(predictions)
    judged = None if judges is None else read_judged(judges)
    audited = {} if audit is None else {name: _audited(audit, name) for name in answers}
    metrics = score_models(answers, metadata, read_truth(truth), score, judged, audited, backbone)
    for model, corpora in answers.items():
        for corpus, rows in corpora.items():
            text = _confusion_csv(rows, metadata[model].labels[corpus])
            write_text(plots / f"confusion-{model}-{corpus}.csv", text)
    write_metrics(metrics, out)
    if summary is not None:
        write_summary(metrics, summary)


def read_answers(paths: Sequence[Path]) -> Answers:
    """The predictions by model and corpus.

    Raises ValueError for a clip of a training split, for two folds in one test set (folds overlap),
    and for a model with rows in two files.
    """
    answers: dict[str, dict[str, list[Prediction]]] = {}
    origin: dict[str, Path] = {}
    for path in paths:
        for row in read_predictions(path):
            if origin.setdefault(row.model, path) != path:
                raise ValueError(f"{path}: model {row.model!r} is in {origin[row.model]}, too")
            if row.split != "test":
                raise ValueError(f"{path}: clip {row.clip_id!r} is not of the test split")
            rows = answers.setdefault(row.model, {}).setdefault(row.corpus, [])
            if rows and rows[0].fold != row.fold:
                raise ValueError(
                    f"{path}: clip {row.clip_id!r} is of fold {row.fold}, "
                    f"others of {row.corpus} are of fold {rows[0].fold}; folds must not be mixed"
                )
            rows.append(row)
    return {
        model: {c: sorted(rows, key=lambda row: row.clip_id) for c, rows in corpora.items()}
        for model, corpora in answers.items()
    }


def read_all_metadata(paths: Sequence[Path]) -> dict[str, TableMetadata]:
    """Model -> the metadata of its predictions."""
    return {
        model: read_metadata(path)
        for path in paths
        for model in pd.read_parquet(path, columns=["model"]).model.unique()
    }


def score_models(
    answers: Answers,
    metadata: Mapping[str, TableMetadata],
    truth: Mapping[str, Truth],
    score: ScoreParams,
    judged: Judged | None = None,
    audited: Mapping[str, Mapping[str, AuditedClip]] = MappingProxyType({}),
    backbone: str | None = None,
) -> Metrics:
    """The metrics of every model on every corpus. Raises ValueError for wheels as read_wheels."""
    wheels = None if score.wheels is None else read_wheels(score.wheels)
    return {
        model: {
            corpus: _score_corpus(
                rows,
                metadata[model].labels[corpus],
                truth,
                _gains(answers, model, corpus, score),
                score,
                judged,
            ).model_copy(
                update={
                    **_lineage_fields(metadata[model], rows),
                    "backbone": backbone,
                    "words": _words(rows, wheels),
                    "best_of": best_of_truth(rows, audited.get(model, {}), truth, score),
                    "best_read": _best_read(
                        rows, audited.get(model, {}), judged, metadata[model].labels[corpus], score
                    ),
                }
            )
            for corpus, rows in corpora.items()
        }
        for model, corpora in answers.items()
    }


def _audited(folder: Path, model: str) -> dict[str, AuditedClip]:
    """The model's audited clips by id; none for a model that was not audited."""
    path = folder / f"{model}.parquet"
    return {clip.clip_id: clip for clip in read_audited_clips(path)} if path.is_file() else {}


def _score_corpus(
    rows: Rows,
    classes: Sequence[str],
    truth: Mapping[str, Truth],
    gain_over: dict[str, GainOver],
    score: ScoreParams,
    judged: Judged | None,
) -> CorpusMetrics:
    labels, answers = _columns(rows)
    calm = {policy: rates(*with_calm(policy, labels, answers), score) for policy in CALM_POLICIES}
    return CorpusMetrics(
        **calm["keep"].model_dump(),
        fold=rows[0].fold,
        mode=rows[0].mode,
        confidence=score.confidence,
        protocol=PROTOCOL,
        calm_policy="keep",
        calm=calm if "calm" in classes else None,
        format_rate=rate(row.well_formed for row in rows),
        finished_rate=rate(row.finished for row in rows),
        silent=sum(row.silent for row in rows),
        digital_silence=sum(row.digital_silence for row in rows),
        cut=sum(row.cut for row in rows),
        confusion=ConfusionCounts(
            rows=list(classes),
            columns=[*classes, NONE],
            counts=confusion(labels, answers, classes).tolist(),
        ),
        gain_over=gain_over,
        rationale_truth=measured_truth(rows, truth, judged.verdicts if judged else {}, score),
        reader=reader_rates(rows, judged.reader, classes, score) if judged else None,
        follows_scene=scene_following(rows, truth, classes),
    )


def _best_read(
    rows: Rows,
    audited: Mapping[str, AuditedClip],
    judged: Judged | None,
    classes: Sequence[str],
    score: ScoreParams,
) -> Rates | None:
    if judged is None:
        return None
    clips = [audited[row.clip_id] for row in rows if row.clip_id in audited]
    return best_read(clips, judged.reader, classes, score)


def _lineage_fields(metadata: TableMetadata, rows: Rows) -> dict[str, object]:
    """The fields of CorpusMetrics that describe corpus and model."""
    corpus = rows[0].corpus
    origin = metadata.origin(corpus)
    fields: dict[str, object] = {
        "data": origin.data, "shortcut": origin.shortcut, "data_seed": origin.seed,
        "undecoded": None if metadata.undecoded is None else metadata.undecoded.get(corpus, 0),
    }  # fmt: skip
    if (model := metadata.model) is None:
        return fields
    against = model.mode is not None and model.mode != rows[0].mode
    return fields | {
        "trained_on": model.trained_on,
        "parameters": model.parameters,
        "seed": model.seed,
        "code": model.code,
        "params_hash": model.params_hash,
        "recorded_mode": model.mode if against else None,
    }


def _words(rows: Rows, wheels: Mapping[str, GroupOf] | None) -> WordScores:
    """The answers as sets of words, against the label as a set of one."""
    truth, predicted = [(row.label,) for row in rows], [split_labels(row.answer) for row in rows]
    scores = word_scores(truth, predicted)
    if wheels is None:
        return scores
    by_wheel = {name: affectgpt_scores(truth, predicted, group) for name, group in wheels.items()}
    return scores.model_copy(update={"affectgpt": by_wheel})


def _columns(rows: Rows) -> tuple[list[str], list[str | None]]:
    return [row.label for row in rows], [row.prediction for row in rows]


def _gains(answers: Answers, model: str, corpus: str, score: ScoreParams) -> dict[str, GainOver]:
    """The gains over the models of COMPARED that answered exactly the same clips."""
    rows = answers[model][corpus]
    gains = {}
    for other in COMPARED.get(model, ()):
        rival = answers.get(other, {}).get(corpus, [])
        if [(r.clip_id, r.label) for r in rival] != [(r.clip_id, r.label) for r in rows]:
            continue
        labels, after = _columns(rows)
        gain = paired_gain(
            labels,
            _columns(rival)[1],
            after,
            samples=score.bootstrap_samples,
            confidence=score.confidence,
            seed=score.seed,
        )
        gains[other] = GainOver(**asdict(gain))
    return gains


def _confusion_csv(rows: Rows, known: Sequence[str]) -> str:
    """One line per clip, for DVC's confusion template."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["actual", "predicted"])
    writer.writerows(
        (row.label, row.prediction if row.prediction in known else NONE) for row in rows
    )
    return text.getvalue()
