"""Predictions: greedy completions of every test clip, from cached features, in batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress

from r1omni import prompts
from r1omni.config import PredictParams
from r1omni.corpora.clip import Clip, read_manifest
from r1omni.evaluation.predictions import Prediction, judge, write_predictions
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.feature_store import FeatureBatch, FeatureStore
from r1omni.model.prompting import prefill_prompts
from r1omni.model.sampling import decode


@dataclass(frozen=True)
class Answered:
    """One greedy completion, with the sum of its tokens' log probabilities."""

    completion: str
    finished: bool
    n_tokens: int
    logprob: float


def run_predict(
    checkpoint: Path,
    manifests: Sequence[Path],
    features: Sequence[Path],
    out: Path,
    *,
    predict: PredictParams,
) -> None:
    """Write the checkpoint's raw completions for every test clip of the manifests."""
    model = HumanOmniForConditionalGeneration.from_pretrained(checkpoint).eval()
    processor = HumanOmniProcessor.from_pretrained(checkpoint)
    store = FeatureStore(list(features))
    clips = [c for path in manifests for c in read_manifest(path) if c.split == "test"]
    rows = []
    with Progress(transient=True) as progress:
        task = progress.add_task(f"predict {checkpoint.name}", total=len(clips))
        for batch in _batches(clips, predict.batch_size):
            loaded = store.load([clip.clip_id for clip in batch])
            answers = answer_batch(model, processor, loaded, predict.max_new_tokens)
            rows += [
                _prediction(checkpoint.name, model.config.answer_mode, clip, answer)
                for clip, answer in zip(batch, answers, strict=True)
            ]
            progress.advance(task, len(batch))
    write_predictions(rows, out)


@torch.no_grad()
def answer_batch(
    model: HumanOmniForConditionalGeneration,
    processor: HumanOmniProcessor,
    features: FeatureBatch,
    max_new_tokens: int,
) -> list[Answered]:
    """The greedy completion for each clip, asked in the checkpoint's own mode."""
    question = prompts.instruction(model.config.answer_mode)
    decoded = decode(
        model,
        prefill_prompts(model, processor, features, [question] * len(features.vision)),
        group_size=1,
        max_new_tokens=max_new_tokens,
        eos_token_id=processor.eos_token_id,
    )
    columns = (decoded.token_ids, decoded.logprobs, decoded.mask, decoded.finished)
    return [
        Answered(
            completion=processor.decode(ids[mask.bool()].tolist()),
            finished=bool(finished),
            n_tokens=int(mask.sum()),
            logprob=float(logprobs.sum()),
        )
        for ids, logprobs, mask, finished in zip(*(c[:, 0] for c in columns), strict=True)
    ]


def _batches(clips: Sequence[Clip], size: int) -> Iterator[Sequence[Clip]]:
    for start in range(0, len(clips), size):
        yield clips[start : start + size]


def _prediction(model: str, mode: prompts.AnswerMode, clip: Clip, answer: Answered) -> Prediction:
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
    )
