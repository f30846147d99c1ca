"""What SFT learns: a clip, a question and the completion that answers it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from r1omni import completions, prompts
from r1omni.claims import Side, without
from r1omni.corpora.clip import Clip


@dataclass(frozen=True)
class Example:
    """A clip, what is asked of it, and the completion to learn."""

    clip_id: str
    instruction: str
    completion: str
    label: str | None  # what balancing goes by
    has_audio: bool = True
    missing: Side | None = None  # what of the clip is hidden from the model


def examples_from(clips: Sequence[Clip], mode: prompts.AnswerMode) -> list[Example]:
    """What SFT learns from labelled training clips: reasoned completions, or bare labels.

    Raises ValueError naming the clip for one without a label, or without a rationale where the
    mode is reasoned.
    """
    question = prompts.instruction(mode)
    examples = []
    for clip in clips:
        if clip.split != "train":
            continue
        if clip.label is None:
            raise ValueError(f"{clip.clip_id}: has no label to learn from")
        if mode == "direct":
            examples.append(Example(clip.clip_id, question, clip.label, clip.label, clip.has_audio))
        elif clip.rationale is None:
            raise ValueError(f"{clip.clip_id}: has no rationale, which the cold start needs")
        else:
            text = completions.render(clip.rationale, clip.label)
            examples.append(Example(clip.clip_id, question, text, clip.label, clip.has_audio))
    return examples


def without_missing(example: Example, missing: Side | None) -> Example:
    """The example with a side of its clip hidden; its rationale says so and describes the rest."""
    if missing is None:
        return example
    parsed = completions.parse(example.completion)
    text = example.completion
    if parsed is not None:
        text = completions.render(without(parsed.rationale, missing), parsed.answer)
    return replace(example, completion=text, missing=missing)


def chosen(examples: Sequence[Example], n: int, seed: int) -> list[Example]:
    """`n` of the examples, in their order; a larger `n` of the same seed has all of a smaller one.

    Raises ValueError where there are not so many.
    """
    if n > len(examples):
        raise ValueError(
            f"params.yaml: cold_start.clips: {n}, but only {len(examples)} training clips have a "
            "rationale"
        )
    ranked = sorted(examples, key=lambda e: sha256(f"{seed}/{e.clip_id}".encode()).hexdigest())
    kept = {example.clip_id for example in ranked[:n]}
    return [example for example in examples if example.clip_id in kept]
