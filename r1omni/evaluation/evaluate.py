"""One checkpoint on one corpus in one command: ingest, features, predict, score."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from r1omni.config import Params
from r1omni.corpora.clip import Clip, read_manifest, read_rejects, write_manifest
from r1omni.corpora.ingestion.ingest import check_fold, run_ingest
from r1omni.corpora.origin import read_origin
from r1omni.corpora.record import Corpus, label_set
from r1omni.evaluation.predict import count_undecoded, predict_clips
from r1omni.evaluation.predictions import TableMetadata, write_predictions
from r1omni.evaluation.results import CorpusMetrics, Interval, Rates, read_metrics
from r1omni.evaluation.score import run_score
from r1omni.evaluation.seen_clips import refuse_training_clips, trained_on
from r1omni.inference.loading import lineage_of, load_checkpoint
from r1omni.lineage import DATA_TEXT, origin_record, size_text
from r1omni.media import MediaSettings
from r1omni.model.feature_rejects import without_rejects
from r1omni.model.feature_store import FeatureStore
from r1omni.model.features import run_features
from r1omni.prompts import AnswerMode


@dataclass(frozen=True)
class Subject:
    """What is evaluated: `name` is the model's in tables, `mode` None as the checkpoint says.

    `allow` names surplus tensors of the checkpoint that are left out.
    """

    name: str
    checkpoint: Path
    mode: AnswerMode | None
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class Field:
    """What it is evaluated on: the test split of one fold of the corpus at `root`."""

    record: Corpus
    root: Path
    fold: int

    @property
    def corpus(self) -> str:
        """The corpus's name."""
        return self.record.name


@dataclass(frozen=True)
class Verdict:
    """The metrics of one evaluation, how many rows were rejected, and what has to be known."""

    metrics: CorpusMetrics
    n_rejected: int
    notes: tuple[str, ...]


def run_evaluate(
    subject: Subject,
    field: Field,
    out: Path,
    *,
    params: Params,
) -> Verdict:
    """Write manifest, rejects, features, predictions and metrics.json below `out`, and say it.

    Raises ValueError for a corpus without test clips, and where the checkpoint was trained on
    another fold of it; that is checked before anything is decoded.
    """
    machine = params.machine
    check_fold(field.record, field.fold)
    if (why := field.record.refusal("test")) is not None:
        raise ValueError(f"{field.corpus} cannot be evaluated: {why}")
    divided = {field.corpus} if "train" in field.record.splits and not field.record.folds else set()
    refuse_training_clips(subject.checkpoint, [_sample_clip(field)], divided)
    model, processor = load_checkpoint(  # fails before the work
        subject.checkpoint, subject.mode, subject.allow, machine.device
    )
    whole = out / "all" / f"{field.corpus}.parquet"
    rejects = out / "rejects.parquet"
    run_ingest(
        field.root,
        whole,
        rejects,
        corpus=field.record,
        fold=field.fold,
        ingest=params.ingest,
        limits=params.limits,
        workers=machine.workers,
    )
    listed = read_manifest(whole)
    labels = label_set(field.record, listed) or ()
    clips = [clip for clip in listed if clip.split == "test"]
    if not clips:
        raise ValueError(
            f"{field.root}: no test clip of {field.corpus}, fold {field.fold}; {rejects} says why"
        )
    refuse_training_clips(subject.checkpoint, clips, divided)
    manifest = out / "manifest.parquet"
    origin = read_origin(whole)
    write_manifest(clips, manifest, note=origin_record(origin))
    folder = out / "features" / f"{subject.name}-{field.corpus}"
    run_features(
        manifest,
        field.root,
        subject.checkpoint,
        folder,
        batch_size=machine.features_batch_size,
        workers=machine.workers,
        min_free_gb=machine.min_free_gb,
        limits=params.limits,
        device=machine.device,
        allow=subject.allow,
    )
    decoded = without_rejects(clips, [folder])
    rows = predict_clips(
        subject.name,
        model,
        processor,
        decoded,
        FeatureStore([folder]),
        predict=params.predict,
        batch_size=machine.predict_batch_size,
    )
    undecoded = count_undecoded(clips, decoded)
    lineage = lineage_of(subject.checkpoint)
    about = TableMetadata({field.corpus: origin}, lineage, undecoded, {field.corpus: labels})
    predictions = out / "predictions.parquet"
    write_predictions(rows, predictions, about)
    run_score([predictions], [], out / "metrics.json", out / "plots", score=params.score)
    metrics = read_metrics(out / "metrics.json")[subject.name][field.corpus]
    notes = []
    if trained_on(subject.checkpoint) is None:
        notes.append(
            "the checkpoint does not record what it was trained on: whether these clips were among "
            "it cannot be told"
        )
    if metrics.recorded_mode is not None:
        notes.append(
            f"asked {metrics.mode}, but the checkpoint records {metrics.recorded_mode}: it was not "
            "taught that form"
        )
    if metrics.format_rate == 0:
        notes.append(f"no answer has the form of mode {metrics.mode}, so none can be right")
    notes += _sound_notes(metrics, clips, processor.media)
    if metrics.undecoded:
        notes.append(
            f"{metrics.undecoded} clips could not be decoded for features: they are left out of n"
        )
    return Verdict(metrics, len(read_rejects(rejects)), tuple(notes))


def _sound_notes(
    metrics: CorpusMetrics, clips: Sequence[Clip], media: MediaSettings
) -> Iterator[str]:
    if metrics.silent:
        yield f"{metrics.silent} clips without audio: the model heard silence"
    if metrics.digital_silence:
        yield f"{metrics.digital_silence} clips whose sound is digital silence"
    if metrics.cut:
        heard = f"the model heard the first {media.audio_seconds:g} s of sound"
        yield f"{metrics.cut} clips cut: {heard}"
    if lossy := sum(clip.lost_packets > 0 for clip in clips):
        yield f"{lossy} clips with packets of sound that could not be decoded: silence in place"


def render_verdict(subject: Subject, field: Field, verdict: Verdict) -> str:
    """The numbers as text, in percent, each with its interval."""
    metrics = verdict.metrics
    fold = "" if metrics.fold is None else f", fold {metrics.fold}"
    lines = [
        f"{subject.name} on {field.corpus}{fold}: n {metrics.n}, {verdict.n_rejected} rows "
        f"rejected, answers {metrics.mode}, {metrics.protocol}, "
        f"{100 * metrics.confidence:g} % intervals",
        f"  the clips: {_corpus_words(metrics)}; the checkpoint: {_model_words(metrics)}",
    ]
    policies = dict(metrics.calm) if metrics.calm else {"": metrics}
    for policy, rates in policies.items():
        calm = f"calm {policy:<6}" if policy else ""
        lines.append(f"  {calm}{_rates(rates)}")
    low, high = wilson_interval(metrics.format_rate, metrics.n, metrics.confidence)
    lines.append(
        f"  format {_percent(metrics.format_rate, (low, high))}, "
        f"finished {100 * metrics.finished_rate:.1f}"
    )
    return "\n".join(lines + [f"  ({note})" for note in verdict.notes])


def _corpus_words(metrics: CorpusMetrics) -> str:
    if metrics.data != "synthetic":
        return metrics.data if metrics.data != "unknown" else "of unknown origin"
    words = ["synthetic (rendered faces)"]
    if metrics.shortcut is not None:
        words.append(f"shortcut {metrics.shortcut:g}")
    if metrics.data_seed is not None:
        words.append(f"seed {metrics.data_seed}")
    return ", ".join(words)


def _model_words(metrics: CorpusMetrics) -> str:
    if metrics.trained_on == "unknown":
        words = ["training data not recorded"]
    else:
        words = [f"trained on {DATA_TEXT[metrics.trained_on]}"]
    if metrics.parameters is not None:
        words.append(f"{size_text(metrics.parameters)} parameters")
    if metrics.seed is not None:
        words.append(f"seed {metrics.seed}")
    return ", ".join(words)


def wilson_interval(share: float, n: int, confidence: float) -> Interval:
    """Wilson's score interval of a share of n clips (1927, JASA 22); bootstrap has none at 0 or 1.

    (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = share + z * z / (2 * n)
    spread = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    scale = 1 + z * z / n
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def _rates(rates: Rates) -> str:
    return (
        f"WAR {_percent(rates.war, rates.war_ci)}  UAR {_percent(rates.uar, rates.uar_ci)}  "
        f"n {rates.n}"
    )


def _percent(value: float, interval: Interval) -> str:
    low, high = interval
    return f"{100 * value:5.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _sample_clip(field: Field) -> Clip:
    """A clip as the corpus's would be, to ask whether it may be evaluated."""
    fold = field.fold if field.record.folds else None
    return Clip("", field.corpus, "", None, "test", fold, None, None, 0.0, 0.0, 0, True, "")
