"""Predictions: greedy completions of every test clip, from cached features, in batches."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from r1omni import prompts
from r1omni.config import PredictParams
from r1omni.corpora.clip import Clip, read_manifest
from r1omni.corpora.origin import read_origins
from r1omni.corpora.sets import Member, features_of, manifests_of
from r1omni.evaluation.predictions import Prediction, TableMetadata, write_predictions
from r1omni.evaluation.seen_clips import refuse_training_clips
from r1omni.inference.greedy import Answered, answer_batch
from r1omni.inference.loading import lineage_of, load_checkpoint
from r1omni.judging import judge
from r1omni.machine.device import Device
from r1omni.machine.environment import is_first, rank, world_size
from r1omni.machine.ranks import gather_patiently
from r1omni.media import Preparation
from r1omni.model.backbone import Backbone
from r1omni.model.feature_rejects import without_rejects
from r1omni.model.feature_store import FeatureStore


def run_predict(
    checkpoint: Path,
    tested: Sequence[Member],
    out: Path,
    *,
    predict: PredictParams,
    batch_size: int,
    device: Device = "auto",
) -> None:
    """Write the checkpoint's raw completions for every test clip of the corpora `tested`.

    A clip that the stage `features` could not decode got no answer: it has no row, and counts
    neither as right nor as wrong. The table counts them (`TableMetadata.undecoded`).
    Raises ValueError where the checkpoint was trained on another fold of theirs, and for a clip
    that cannot be scored (see `_test_clips`).
    """
    features = features_of(tested)
    every_clip = {member: read_manifest(member.manifest) for member in tested}
    listed = [clip for member, found in every_clip.items() for clip in _test_clips(member, found)]
    every_row = (clip for found in every_clip.values() for clip in found)
    divided = {clip.corpus for clip in every_row if clip.split == "train"}
    refuse_training_clips(checkpoint, listed, divided)
    clips = without_rejects(listed, features)
    store = FeatureStore(features)
    backbone = load_checkpoint(checkpoint, device=device)
    rows = predict_clips(
        checkpoint.name, backbone, clips, store, predict=predict, batch_size=batch_size
    )
    undecoded = count_undecoded(listed, clips)
    origins = read_origins(manifests_of(tested), "test")
    labels = {member.corpus: member.labels for member in tested}
    about = TableMetadata(origins, lineage_of(checkpoint), undecoded, labels)
    if is_first():
        write_predictions(rows, out, about)


def count_undecoded(listed: Iterable[Clip], decoded: Iterable[Clip]) -> dict[str, int]:
    """Corpus -> how many of the listed clips were not decoded, where there are any."""
    return dict(Counter(c.corpus for c in listed) - Counter(c.corpus for c in decoded))


def _test_clips(member: Member, clips: Iterable[Clip]) -> list[Clip]:
    """The test clips of a corpus. Raises ValueError for one whose label cannot be scored."""
    clips = [clip for clip in clips if clip.split == "test"]
    for clip in clips:
        if clip.label not in member.labels:
            known = ", ".join(member.labels)
            raise ValueError(
                f"{member.manifest}: clip {clip.clip_id!r} has the label {clip.label!r}; known for "
                f"{member.corpus}: {known}"
            )
    return clips


def predict_clips(
    name: str,
    backbone: Backbone,
    clips: Sequence[Clip],
    store: FeatureStore,
    *,
    predict: PredictParams,
    batch_size: int,
) -> list[Prediction]:
    """The model's answer to every clip, under the model's `name`; the same list on every rank.

    Several ranks (join_ranks) take whole batches in turn, so no answer depends on their number.
    """
    batches = [clips[start : start + batch_size] for start in range(0, len(clips), batch_size)]
    own = batches[rank() :: world_size()]
    answered: list[list[Prediction]] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"predict {name}", total=sum(map(len, own)))
        for batch in own:
            loaded = store.load([clip.clip_id for clip in batch])
            answers = answer_batch(backbone, loaded, predict.max_new_tokens)
            answered.append(
                [
                    _prediction(name, backbone.answer_mode, clip, answer, backbone.preparation)
                    for clip, answer in zip(batch, answers, strict=True)
                ]
            )
            progress.advance(task, len(batch))
    by_rank, n = gather_patiently(answered), world_size()
    return [row for i in range(len(batches)) for row in by_rank[i % n][i // n]]


def _prediction(
    model: str, mode: prompts.AnswerMode, clip: Clip, answer: Answered, preparation: Preparation
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
        cut=preparation.cuts(clip.audio_duration),
    )
