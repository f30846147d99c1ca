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
from r1omni.media import Preparation
from r1omni.model.backbone import Backbone
from r1omni.model.feature_rejects import without_rejects
from r1omni.model.feature_store import FeatureStore
from r1omni.model.features import run_features
from r1omni.prompts import AnswerMode


@dataclass(frozen=True)
class Candidate:
    """The model to evaluate: `name` is for tables, `mode` None means the checkpoint's own.

    `allow` names surplus tensors of the checkpoint that are left out.
    """

    name: str
    checkpoint: Path
    mode: AnswerMode | None
    allow: tuple[str, ...] = ()


@dataclass(frozen=True)
class TestSet:
    """The test split of one fold of the corpus at `root`."""

    record: Corpus
    root: Path
    fold: int

    @property
    def corpus(self) -> str:
        """The corpus's name."""
        return self.record.name


@dataclass(frozen=True)
class Result:
    """The metrics of one evaluation, the number of rejected rows, and notes for the reader."""

    metrics: CorpusMetrics
    n_rejected: int
    notes: tuple[str, ...]


def run_evaluate(
    candidate: Candidate,
    test_set: TestSet,
    out: Path,
    *,
    params: Params,
) -> Result:
    """The result; writes manifest, rejects, features, predictions and metrics.json below `out`.

    Raises ValueError for a corpus without test clips, and where the checkpoint was trained on
    another fold of it; that is checked before anything is decoded.
    """
    machine = params.machine
    check_fold(test_set.record, test_set.fold)
    if (why := test_set.record.refusal("test")) is not None:
        raise ValueError(f"{test_set.corpus} cannot be evaluated: {why}")
    divided = (
        {test_set.corpus}
        if "train" in test_set.record.splits and not test_set.record.folds
        else set()
    )
    refuse_training_clips(candidate.checkpoint, [_sample_clip(test_set)], divided)
    backbone = load_checkpoint(  # fails before the work
        candidate.checkpoint, candidate.mode, candidate.allow, machine.device
    )
    clips, labels, rejects = _ingest_test_clips(test_set, out, params)
    refuse_training_clips(candidate.checkpoint, clips, divided)
    _predict_clips(candidate, test_set, backbone, clips, labels, out, params)
    run_score(
        [out / "predictions.parquet"],
        [],
        out / "metrics.json",
        out / "plots",
        score=params.score,
    )
    metrics = read_metrics(out / "metrics.json")[candidate.name][test_set.corpus]
    notes = tuple(_notes(candidate, metrics, clips, backbone.preparation))
    return Result(metrics, len(read_rejects(rejects)), notes)


def _ingest_test_clips(
    test_set: TestSet, out: Path, params: Params
) -> tuple[list[Clip], Sequence[str], Path]:
    """The corpus's test clips, its labels and the table of rejects; writes the manifest.

    Raises ValueError for a corpus without test clips.
    """
    whole = out / "all" / f"{test_set.corpus}.parquet"
    rejects = out / "rejects.parquet"
    run_ingest(
        test_set.root,
        whole,
        rejects,
        corpus=test_set.record,
        fold=test_set.fold,
        ingest=params.ingest,
        limits=params.limits,
        workers=params.machine.workers,
    )
    listed = read_manifest(whole)
    clips = [clip for clip in listed if clip.split == "test"]
    if not clips:
        raise ValueError(
            f"{test_set.root}: no test clip of {test_set.corpus}, fold {test_set.fold}; {rejects} "
            "says why"
        )
    write_manifest(clips, out / "manifest.parquet", note=origin_record(read_origin(whole)))
    return clips, label_set(test_set.record, listed) or (), rejects


def _predict_clips(
    candidate: Candidate,
    test_set: TestSet,
    backbone: Backbone,
    clips: Sequence[Clip],
    labels: Sequence[str],
    out: Path,
    params: Params,
) -> None:
    """Write features and predictions of the test clips below `out`."""
    machine, manifest = params.machine, out / "manifest.parquet"
    folder = out / "features" / f"{candidate.name}-{test_set.corpus}"
    run_features(
        manifest,
        test_set.root,
        candidate.checkpoint,
        folder,
        batch_size=machine.features_batch_size,
        workers=machine.workers,
        min_free_gb=machine.min_free_gb,
        limits=params.limits,
        device=machine.device,
        allow=candidate.allow,
    )
    decoded = without_rejects(clips, [folder])
    rows = predict_clips(
        candidate.name,
        backbone,
        decoded,
        FeatureStore([folder]),
        predict=params.predict,
        batch_size=machine.predict_batch_size,
    )
    about = TableMetadata(
        {test_set.corpus: read_origin(manifest)},
        lineage_of(candidate.checkpoint),
        count_undecoded(clips, decoded),
        {test_set.corpus: tuple(labels)},
    )
    write_predictions(rows, out / "predictions.parquet", about)


def _notes(
    candidate: Candidate,
    metrics: CorpusMetrics,
    clips: Sequence[Clip],
    preparation: Preparation,
) -> Iterator[str]:
    if trained_on(candidate.checkpoint) is None:
        yield (
            "the checkpoint does not record what it was trained on: whether these clips were among "
            "it is unknown"
        )
    if metrics.recorded_mode is not None:
        yield (
            f"asked {metrics.mode}, but the checkpoint records {metrics.recorded_mode}: it was not "
            "taught that form"
        )
    if metrics.format_rate == 0:
        yield f"no answer has the form of mode {metrics.mode}, so none can be right"
    yield from _sound_notes(metrics, clips, preparation)
    if metrics.undecoded:
        yield f"{metrics.undecoded} clips could not be decoded for features: they are left out of n"


def _sound_notes(
    metrics: CorpusMetrics, clips: Sequence[Clip], preparation: Preparation
) -> Iterator[str]:
    if metrics.silent:
        yield f"{metrics.silent} clips without audio: the model heard nothing"
    if metrics.digital_silence:
        yield f"{metrics.digital_silence} clips whose sound is digital silence"
    if metrics.cut:
        heard = f"the model heard the first {preparation.audio_seconds:g} s of sound"
        yield f"{metrics.cut} clips cut: {heard}"
    if lossy := sum(clip.lost_packets > 0 for clip in clips):
        yield f"{lossy} clips with packets of sound that could not be decoded: silence in place"


def render_result(candidate: Candidate, test_set: TestSet, result: Result) -> str:
    """The numbers as text, in percent, each with its interval."""
    metrics = result.metrics
    fold = "" if metrics.fold is None else f", fold {metrics.fold}"
    lines = [
        f"{candidate.name} on {test_set.corpus}{fold}: n {metrics.n}, {result.n_rejected} rows "
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
    return "\n".join(lines + [f"  ({note})" for note in result.notes])


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


def _sample_clip(test_set: TestSet) -> Clip:
    """A clip as the corpus's would be, to ask whether it may be evaluated."""
    fold = test_set.fold if test_set.record.folds else None
    return Clip("", test_set.corpus, "", None, "test", fold, None, None, 0.0, 0.0, 0, True, "")
