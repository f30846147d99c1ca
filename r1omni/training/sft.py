"""Supervised fine-tuning: the cold start on rationales, and label SFT on bare labels.

arXiv 2503.05379, section 3.1: cold start (EMER-SFT) on 580 reasoned clips gives the model its
form; MAFW-DFEW-SFT, the paper's control, sees the same clips as GRPO with labels only.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from r1omni import prompts
from r1omni.config import MachineParams
from r1omni.corpora.clip import read_manifest
from r1omni.corpora.origin import read_origins
from r1omni.machine.curves import Log
from r1omni.machine.progress import timed
from r1omni.machine.ranks import join_ranks
from r1omni.machine.state_folders import TrainingPaths, open_state
from r1omni.model.backbone import Backbone, prefill_prompts
from r1omni.model.feature_rejects import without_rejects
from r1omni.model.feature_store import INDEX, Features, FeatureStore
from r1omni.model.sampling import score_completions
from r1omni.model.shared_prefix import Prefix
from r1omni.training.batches import balanced_shares, batch_at
from r1omni.training.checkpoints import load_parent, one_fold, save_checkpoint
from r1omni.training.engine import Engine
from r1omni.training.examples import Example, chosen, examples_from, without_missing
from r1omni.training.held_out import HeldOutSet, set_aside
from r1omni.training.loop import run_steps
from r1omni.training.losses import sft_loss
from r1omni.training.memory import announce_memory
from r1omni.training.modality_dropout import NOTHING_MISSING, ModalityDropout, modality_dropout
from r1omni.training.reading_lessons import NO_LESSONS, ReadingLessons, answer_mask
from r1omni.training.recipe import fingerprint
from r1omni.training.schedules import cosine_decay
from r1omni.training_config import (
    ColdStartParams,
    EngineParams,
    HeldOutParams,
    LabelSFTParams,
    SFTParams,
)


def run_sft(
    parent: Path,
    manifests: Sequence[Path],
    features: Sequence[Path],
    paths: TrainingPaths,
    *,
    mode: prompts.AnswerMode,
    sft: ColdStartParams | LabelSFTParams,
    engine: EngineParams,
    machine: MachineParams,
    log: Log,
    held_out: HeldOutParams | None = None,
) -> None:
    """Fine-tune the parent checkpoint on the training clips of the manifests.

    The cold start learns from `clips` of them, chosen by its seed; from none, the checkpoint is its
    parent, which is asked for rationales.
    """
    listed = [clip for path in manifests for clip in read_manifest(path)]
    every_clip = without_rejects(listed, features)
    one_fold(every_clip, parent)
    clips, watched = set_aside(every_clip, held_out)
    store = FeatureStore(list(features))
    examples = examples_from(clips, mode)
    if isinstance(sft, ColdStartParams) and sft.clips is not None:
        examples = chosen(examples, sft.clips, sft.seed)
        learned = {example.clip_id for example in examples}
        clips = [clip for clip in clips if clip.clip_id in learned]
    sections = [sft, engine] if held_out is None else [sft, held_out, engine]
    recipe = fingerprint(sections, [parent, *manifests, *(f / INDEX for f in features)])
    join_ranks(machine)
    paths = open_state(paths, recipe)
    backbone = load_parent(parent, engine.adapter, sft.seed)
    if examples:
        train_supervised(
            backbone,
            store.load,
            examples,
            paths,
            sft=sft,
            engine=engine,
            machine=machine,
            log=log,
            recipe=recipe,
            largest=store.largest([example.clip_id for example in examples]),
            dropout=modality_dropout(backbone, sft.modality_dropout, sft.seed),
            lessons=ReadingLessons(examples, sft.reading_lessons, sft.seed)
            if isinstance(sft, ColdStartParams)
            else NO_LESSONS,
            held_out_set=None
            if held_out is None
            else HeldOutSet(watched, store, mode, _longest(backbone, examples), held_out.every),
        )
    save_checkpoint(
        backbone,
        paths,
        stage_params=sft,
        mode=mode,
        parent=parent,
        clips=clips,
        data=read_origins(manifests, "train"),
        further=sections[1:],
    )


def train_supervised(
    backbone: Backbone,
    load: Callable[[Sequence[str]], Sequence[Features]],
    examples: Sequence[Example],
    paths: TrainingPaths,
    *,
    sft: SFTParams,
    engine: EngineParams,
    machine: MachineParams,
    log: Log,
    recipe: str,
    largest: str | None = None,
    dropout: ModalityDropout = NOTHING_MISSING,
    lessons: ReadingLessons = NO_LESSONS,
    held_out_set: HeldOutSet | None = None,
) -> None:
    """Train in place on `examples`, continuing from the newest state of the same recipe.

    `paths` are those of `open_state`. `largest`: the clip with the longest prompt, by which the
    memory is announced; None: the first.
    """
    shares = balanced_shares([example.label for example in examples], sft.balance)
    steps = -(-len(examples) * sft.epochs // sft.batch_size)
    trainer = Engine(
        backbone.module,
        machine,
        dtype=engine.dtype,
        lr=sft.lr,
        schedule=cosine_decay(steps, sft.warmup),
        weight_decay=sft.weight_decay,
        max_grad_norm=sft.max_grad_norm,
        skip_nonfinite=engine.skip_nonfinite,
    )
    announce_memory(
        paths.training.name,
        backbone,
        machine,
        dtype=engine.dtype,
        example=backbone.ask(load([largest or examples[0].clip_id]), [examples[0].instruction]),
        clips=sft.batch_size,
        completion=_longest(backbone, examples) * (1 + lessons.per_clip),
    )
    loss_of = partial(
        _batch_loss,
        backbone,
        load,
        dropout=dropout,
        answer_weight=lessons.answer_weight,
        checkpointing=machine.gradient_checkpointing,
    )

    def take(step: int) -> dict[str, float]:
        batch = batch_at(examples, step, sft.batch_size, sft.seed, shares)
        seconds: dict[str, float] = {}
        with timed(seconds, "time/step"):
            for places in trainer.shares(len(batch)):
                part = [batch[place] for place in places]
                sides = dropout.missing(step, places, [e.has_audio for e in part])
                part = list(map(without_missing, part, sides))
                read = [lessons.at(step, place) for place in places]
                loss, tokens, broken = loss_of(part, read=read)
                trainer.backward(loss, tokens, [example.clip_id for example in part], broken)
            metrics = trainer.update()
        evaluated = held_out_set.evaluate_if_due(step, steps, backbone) if held_out_set else {}
        return {**metrics, **seconds, **evaluated}

    run_steps(
        take, steps, trainer, paths, recipe=recipe, machine=machine, log=log, headline=_headline
    )


def _headline(metrics: Mapping[str, float]) -> str:
    loss = metrics.get("train/loss")
    return "loss not finite: skipped" if loss is None else f"loss {loss:.3f}"


def _batch_loss(
    backbone: Backbone,
    load: Callable[[Sequence[str]], Sequence[Features]],
    batch: Sequence[Example],
    dropout: ModalityDropout,
    *,
    read: Sequence[Sequence[str]] = (),
    answer_weight: float = 1.0,
    checkpointing: bool = False,
) -> tuple[torch.Tensor, float, list[str]]:
    """The mean loss per completion token of these examples, and how many tokens they are.

    With the clips of the examples whose own loss is not finite. `read` has each example's reading
    lessons, of which the answer's tokens count `answer_weight` each.
    """
    features = load([example.clip_id for example in batch])
    features = dropout.hide(features, [example.missing for example in batch])
    questions = [example.instruction for example in batch]
    prefix = prefill_prompts(backbone, features, questions, checkpointing=checkpointing)
    written = [[example.completion] for example in batch]
    logprobs, mask = _scored(backbone, prefix, written, checkpointing=checkpointing)
    loss, tokens = sft_loss(logprobs.flatten(0, 1), mask), float(mask.sum())
    sound = logprobs.isfinite().flatten(1).all(dim=1).tolist()  # masked positions are 0
    broken = [e.clip_id for e, finite in zip(batch, sound, strict=True) if not finite]
    if any(read):
        learned, shown = _scored(backbone, prefix, read, checkpointing=checkpointing)
        answers = answer_mask(backbone, [text for texts in read for text in texts], shown)
        weight = answer_weight * float(answers.sum())
        reading = sft_loss(learned.flatten(0, 1), answers)
        loss = (tokens * loss + weight * reading) / (tokens + weight)
        tokens += weight
    return loss, tokens, broken


def _scored(
    backbone: Backbone, prefix: Prefix, texts: Sequence[Sequence[str]], *, checkpointing: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log probabilities (P, G, T) of G completions of each prompt, and their mask (P * G, T)."""
    ids = [backbone.encode_completion(text) for row in texts for text in row]
    padded = pad_completions(ids, backbone.eos_token_ids[0])
    token_ids, mask = (x.to(prefix.last_hidden.device) for x in padded)
    by_prompt = (len(texts), -1, mask.shape[1])
    logprobs, _ = score_completions(
        backbone.language_model,
        prefix,
        token_ids.view(by_prompt),
        mask.view(by_prompt),
        checkpointing=checkpointing,
    )
    return logprobs, mask


def _longest(backbone: Backbone, examples: Sequence[Example]) -> int:
    """Tokens of the longest completion, beyond which no good answer goes."""
    return max(len(backbone.encode_completion(text)) for text in {e.completion for e in examples})


def pad_completions(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded token ids and completion mask: (N, T), (N, T)."""
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    return ids, mask
