"""The base model, before any emotion was taught to it.

Paper profile: convert a public checkpoint. Embedded default: a tiny backbone whose towers are
trained on generic clips and whose connector and language model learn to describe them, with a few
noisily answered emotion questions among the captions (a generalist has seen such questions).
"""

import json
import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from r1omni import prompts
from r1omni.base_model.connector import train_connector
from r1omni.base_model.tiny import TinyBase, build_tiny, read_public
from r1omni.base_model.towers import GenericClip, read_generic, train_towers
from r1omni.config import MachineParams
from r1omni.corpora.clip import read_manifest
from r1omni.corpora.origin import origin_of_root
from r1omni.emotions import EMOTIONS
from r1omni.limits import Limits
from r1omni.lineage import UNKNOWN, read_lineage
from r1omni.machine.curves import Curves, Log
from r1omni.machine.environment import is_first, world_size
from r1omni.machine.ranks import gather_dict, join_ranks, shares
from r1omni.machine.state_folders import TrainingPaths, open_state
from r1omni.media import Preparation, TowerInputs
from r1omni.media.pool import Undecoded, decode_clips, usable_cores
from r1omni.model.backbone import Backbone
from r1omni.model.feature_store import Features
from r1omni.model.weights import is_hub_id
from r1omni.model_config import MediaParams, ModelParams
from r1omni.training.checkpoints import await_checkpoint, save_checkpoint
from r1omni.training.examples import Example
from r1omni.training.recipe import fingerprint
from r1omni.training.sft import train_supervised
from r1omni.training_config import BaseParams, EngineParams

logger = logging.getLogger(__name__)


def run_base(
    source: Path,
    reasoning: Sequence[Path],
    paths: TrainingPaths,
    *,
    base: BaseParams,
    model: ModelParams,
    media: MediaParams,
    engine: EngineParams,
    machine: MachineParams,
    limits: Limits,
    log: Log,
) -> None:
    """Convert the checkpoint in `source`, or train a tiny base on the generic corpus there.

    A checkpoint is a folder with config.json or a hub id, owner/name. The reasoning manifests lend
    their vocabulary to the tiny base's tokenizer.
    """
    join_ranks(machine)
    engine = engine.model_copy(update={"adapter": None})  # the base has none, whatever comes after
    if (source / "config.json").is_file() or is_hub_id(source):
        _convert(source, paths, base=base, model=model, media=media)
        return
    clips = read_generic(source)
    recipe = fingerprint([base, model, media, engine], [source, *reasoning])
    paths = open_state(paths, recipe)
    torch.manual_seed(base.seed)
    reasons = (clip.rationale for path in reasoning for clip in read_manifest(path))
    spoken = [reason for reason in reasons if reason is not None]
    captions = [clip.caption for clip in clips]
    tiny = build_tiny(captions, spoken, model=model, media=media)
    backbone = tiny.backbone
    decoded = _decode(source, clips, backbone.preparation, machine.workers, limits)
    load = _train_parts(tiny, clips, decoded, paths.state, base)
    towers = {name: deepcopy(tower.module) for name, tower in tiny.towers.items()}
    train_supervised(
        backbone,
        load,
        alignment_examples(clips, base),
        paths,
        sft=base.align,
        engine=engine,
        machine=machine,
        log=log,
        recipe=recipe,
    )
    for name, tower in tiny.towers.items():  # an engine in bfloat16 casts them too
        _put_back(tower.module, towers[name])
    save_checkpoint(
        backbone,
        paths,
        stage_params=base,
        mode="direct",
        parent=None,
        clips=[],
        data={source.name: origin_of_root(source)},
        further=[model, media, engine],
    )


def _train_parts(
    tiny: TinyBase,
    clips: Sequence[GenericClip],
    decoded: dict[str, TowerInputs],
    state: Path,
    base: BaseParams,
) -> Callable[[Sequence[str]], list[Features]]:
    """Train towers, then connectors, and freeze the backbone; returns the towers' outputs."""
    pairs = [(decoded[clip.clip_id], clip.targets) for clip in clips]
    _kept(
        {name: tower.module for name, tower in tiny.towers.items()},
        state / "towers.safetensors",
        lambda: train_towers(tiny.towers, pairs, base=base, log=_curves(state / "towers.jsonl")),
    )
    tiny.backbone.freeze()
    load = _tower_outputs(tiny.backbone, decoded)
    if tiny.connectors:
        _kept(
            {name: connector.module for name, connector in tiny.connectors.items()},
            state / "connector.safetensors",
            lambda: train_connector(
                tiny.connectors, clips, load, base=base, log=_curves(state / "connector.jsonl")
            ),
        )
    return load


def _convert(
    source: Path, paths: TrainingPaths, *, base: BaseParams, model: ModelParams, media: MediaParams
) -> None:
    """Convert, say what became of the tensors, and keep the whole account beside the curves."""
    paths = open_state(paths, fingerprint([base], []))
    if not is_first():
        await_checkpoint(paths)
        return
    backbone, report = read_public(source, base=base, model=model, media=media)
    Console(stderr=True).print(f"{source}: {report.render()}", soft_wrap=True, markup=False)
    lineage = read_lineage(source)
    inherited = {} if lineage is None else lineage.data
    save_checkpoint(
        backbone,
        paths,
        stage_params=base,
        mode="direct",
        parent=None,
        clips=[],
        data=inherited or {source.name: UNKNOWN},
        further=[media],
    )
    whole = json.dumps(asdict(report), indent=1)
    (paths.training / "conversion.json").write_text(whole + "\n", encoding="utf-8")


def alignment_examples(clips: Sequence[GenericClip], base: BaseParams) -> list[Example]:
    """Every generic clip with its caption, and a share of them asked for the emotion too.

    Such an answer is the clip's label or, with chance `emotion_label_noise`, any emotion.
    """
    rng = np.random.default_rng(base.seed)
    examples = [
        Example(clip.clip_id, prompts.CAPTION_QUESTION, clip.caption, None) for clip in clips
    ]
    question = prompts.instruction("direct")
    for clip in clips:
        if rng.random() < base.emotion_share:
            random_emotion = str(rng.choice(EMOTIONS))
            answer = random_emotion if rng.random() < base.emotion_label_noise else clip.emotion
            examples.append(Example(clip.clip_id, question, answer, answer))
    return examples


def _curves(path: Path) -> Log:
    """A log that writes a curve of its own, from its start: these phases leave no state."""
    path.unlink(missing_ok=True)
    return Curves(path, lambda _step, _metrics: None).log


def _decode(
    source: Path,
    clips: Sequence[GenericClip],
    media: Preparation,
    workers: int,
    limits: Limits,
) -> dict[str, TowerInputs]:
    """Every clip's tower inputs by its id; each rank decodes its share for all.

    Raises ValueError naming the file where one does not decode: the corpus is our own.
    """
    own = [clips[place] for part in shares(len(clips)) for place in part]
    files = [source / clip.path for clip in own]
    workers = workers or max(1, usable_cores() // world_size())
    decoded = {}
    for clip, read in zip(own, decode_clips(files, media, workers, limits), strict=True):
        if isinstance(read, Undecoded):
            raise ValueError(f"{read.path}: {read.reason}; render the generic corpus again")
        decoded[clip.clip_id] = read
    return gather_dict(decoded)


def _kept(parts: dict[str, torch.nn.Module], path: Path, train: Callable[[], None]) -> None:
    """Load the parts that an earlier, killed run finished training, or train and keep them."""
    modules = torch.nn.ModuleDict(parts)
    if path.is_file():
        modules.load_state_dict(load_file(path))
        return
    train()
    if not is_first():  # all ranks have trained, so none will look whether it is there
        return
    partial = path.with_suffix(".partial")
    save_file({k: v.contiguous() for k, v in modules.state_dict().items()}, partial)
    partial.replace(path)


def _put_back(module: torch.nn.Module, copy: torch.nn.Module) -> None:
    """Give a module the copy's tensors, in their precision."""
    tensors = ((*m.parameters(), *m.buffers()) for m in (module, copy))
    for own, kept in zip(*tensors, strict=True):
        own.data = kept.data


@torch.no_grad()
def _tower_outputs(
    backbone: Backbone, decoded: dict[str, TowerInputs]
) -> Callable[[Sequence[str]], list[Features]]:
    """What a FeatureStore would give, straight from memory."""
    order = sorted(decoded)
    features: dict[str, Features] = {}
    for start in range(0, len(order), 64):
        batch = order[start : start + 64]
        encoded = backbone.encode([decoded[clip_id] for clip_id in batch])
        features |= zip(batch, encoded, strict=True)
    return lambda clip_ids: [features[clip_id] for clip_id in clip_ids]
