"""Predictions: greedy completions of every test clip, from cached features, in batches."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from r1omni import prompts
from r1omni.config import PredictParams
from r1omni.corpora.clip import Clip, read_manifest
from r1omni.corpora.origin import read_origins
from r1omni.emotions import LABELS
from r1omni.evaluation.predictions import Prediction, TableMetadata, write_predictions
from r1omni.evaluation.seen_clips import refuse_training_clips
from r1omni.inference.greedy import Answered, answer_batch
from r1omni.inference.loading import lineage_of, load_checkpoint
from r1omni.judging import judge
from r1omni.machine.device import Device
from r1omni.media import MediaSettings
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.feature_rejects import without_rejects
from r1omni.model.feature_store import FeatureStore


def run_predict(
    checkpoint: Path,
    manifests: Sequence[Path],
    features: Sequence[Path],
    out: Path,
    *,
    predict: PredictParams,
    batch_size: int,
    device: Device = "auto",
) -> None:
    """Write the checkpoint's raw completions for every test clip of the manifests.

    A clip that the stage `features` could not decode got no answer: it has no row, and counts
    neither as right nor as wrong. The table counts them (`TableMetadata.undecoded`).
    Raises ValueError where the checkpoint was trained on another fold of theirs, and for a clip
    that cannot be scored (see `_test_clips`).
    """
    listed = [clip for path in manifests for clip in _test_clips(path)]
    clips = without_rejects(listed, features)
    refuse_training_clips(checkpoint, clips)
    store = FeatureStore(list(features))
    loaded = load_checkpoint(checkpoint, device=device)
    rows = predict_clips(
        checkpoint.name, *loaded, clips, store, predict=predict, batch_size=batch_size
    )
    undecoded = count_undecoded(listed, clips)
    about = TableMetadata(read_origins(manifests, "test"), lineage_of(checkpoint), undecoded)
    write_predictions(rows, out, about)


def count_undecoded(listed: Iterable[Clip], decoded: Iterable[Clip]) -> dict[str, int]:
    """Corpus -> how many of the listed clips were not decoded, where there are any."""
    return dict(Counter(c.corpus for c in listed) - Counter(c.corpus for c in decoded))


def _test_clips(manifest: Path) -> list[Clip]:
    """The test clips of a manifest. Raises ValueError for one whose label cannot be scored."""
    clips = [clip for clip in read_manifest(manifest) if clip.split == "test"]
    for clip in clips:
        if clip.corpus not in LABELS:
            known = ", ".join(LABELS)
            raise ValueError(
                f"{manifest}: clip {clip.clip_id!r} is of {clip.corpus}, which is not "
                f"evaluated; expected clips of {known}"
            )
        if clip.label not in LABELS[clip.corpus]:
            known = ", ".join(LABELS[clip.corpus])
            raise ValueError(
                f"{manifest}: clip {clip.clip_id!r} has the label {clip.label!r}; known for "
                f"{clip.corpus}: {known}"
            )
    return clips


def predict_clips(
    name: str,
    model: HumanOmniForConditionalGeneration,
    processor: HumanOmniProcessor,
    clips: Sequence[Clip],
    store: FeatureStore,
    *,
    predict: PredictParams,
    batch_size: int,
) -> list[Prediction]:
    """The model's answer to every clip, under the model's `name`."""
    rows: list[Prediction] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"predict {name}", total=len(clips))
        for batch in _batches(clips, batch_size):
            loaded = store.load([clip.clip_id for clip in batch])
            answers = answer_batch(model, processor, loaded, predict.max_new_tokens)
            rows += [
                _prediction(name, model.config.answer_mode, clip, answer, processor.media)
                for clip, answer in zip(batch, answers, strict=True)
            ]
            progress.advance(task, len(batch))
    return rows


def _batches(clips: Sequence[Clip], size: int) -> Iterator[Sequence[Clip]]:
    for start in range(0, len(clips), size):
        yield clips[start : start + size]


def _prediction(
    model: str, mode: prompts.AnswerMode, clip: Clip, answer: Answered, media: MediaSettings
) -> Prediction:
    judged = judge(answer.completion, mode)
    assert clip.label is not None, clip.clip_id
    return Prediction(
        model=model,
        corpus=clip.corpus,
        clip_id=clip.clip_id,
        fold=clip.fold,
        split=clip.split,
        label=clip.label,
        mode=mode,
        completion=answer.completion,
        finished=answer.finished,
        n_tokens=answer.n_tokens,
        logprob=answer.logprob,
        rationale=judged.rationale,
        answer=judged.answer,
        prediction=judged.prediction,
        silent=not clip.has_audio,
        digital_silence=clip.digital_silence,
        cut=media.cuts(clip.audio_duration),
    )
