"""Answers for any video file: the same preprocessing and decoding as the pipeline's."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from r1omni.evaluation.predict import answer_batch
from r1omni.evaluation.predictions import Judged, judge
from r1omni.media import UnreadableMedia, preprocess
from r1omni.model import HumanOmniForConditionalGeneration, HumanOmniProcessor
from r1omni.model.feature_store import FeatureBatch
from r1omni.model.tower_inputs import stack_inputs


@dataclass(frozen=True)
class Answer:
    """What the model said of one file, and what that means."""

    completion: str
    judged: Judged
    silent: bool  # the file has no audio


def answer_files(
    files: Sequence[Path], checkpoint: Path, max_new_tokens: int
) -> Iterator[tuple[Path, Answer | str]]:
    """Each file with its answer, or with the reason why it could not be read."""
    if not (checkpoint / "config.json").is_file():
        raise ValueError(f"{checkpoint}: no checkpoint there; `r1omni repro` trains one")
    model = HumanOmniForConditionalGeneration.from_pretrained(checkpoint).eval()
    processor = HumanOmniProcessor.from_pretrained(checkpoint)
    for path in files:
        try:
            features = features_of(model, processor, path)
        except UnreadableMedia as error:
            yield path, str(error)
            continue
        completion = answer_batch(model, processor, features, max_new_tokens)[0].completion
        judged = judge(completion, model.config.answer_mode)
        yield path, Answer(completion, judged, silent=not bool(features.has_audio[0]))


@torch.no_grad()
def features_of(
    model: HumanOmniForConditionalGeneration, processor: HumanOmniProcessor, path: Path
) -> FeatureBatch:
    """One file's features, rounded to half precision as the cache does; a batch of one."""
    inputs = preprocess(path, processor.media)
    pixels, mel = stack_inputs([inputs])
    return FeatureBatch(
        model.encode_vision(pixels).half().float(),
        model.encode_audio(mel).half().float(),
        torch.tensor([inputs.has_audio]),
    )
