"""Stages that make checkpoints and features: base, features, cold-start, label-sft, grpo."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from r1omni.config import MachineParams
from r1omni.machine.imports import quick_imports
from r1omni.own_code import code_hash
from r1omni.section import Section
from r1omni.stages.command import (
    PARAMS,
    STAGES,
    ParamsFile,
    SetFile,
    launch_or_go_on,
    read_and_set_threads,
    stages,
)

if TYPE_CHECKING:
    from r1omni.machine.state_folders import TrainingPaths
    from r1omni.model.features import Elsewhere, FeatureJob
    from r1omni.prompts import AnswerMode


@stages.command(rich_help_panel=STAGES)
def base(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint folder to write")],
    reasoned: SetFile,
    training: Annotated[Path, typer.Option(help="folder to write: curves")],
    params: ParamsFile = PARAMS,
) -> None:
    """Make the base model from `base.source`: convert a checkpoint, or train on generic clips."""
    read = read_and_set_threads(params)
    source = read.base.source
    launch_or_go_on(read.machine)
    with quick_imports():
        from r1omni.base_model.stage import run_base
        from r1omni.corpora.sets import manifests_of, read_set
        from r1omni.hub import translate_hub_errors
        from r1omni.machine.state_folders import remove_finished_states
        from r1omni.tracking.runs import open_run

    reasoning = manifests_of(read_set(reasoned))
    paths = _training_paths(checkpoint, training)
    with open_run(
        "base",
        tracking=read.tracking,
        **_described(
            "base",
            params,
            read.machine,
            base=read.base,
            model=read.model,
            media=read.media,
            engine=read.engine,
        ),
        datasets=[*reasoning, *source.glob("annotations.json")],
        tags={"training_code": code_hash()[:32]},
        state=paths.state.with_suffix(".run.json"),
    ) as run:
        with translate_hub_errors(str(source)):
            run_base(
                source,
                reasoning,
                paths,
                base=read.base,
                model=read.model,
                media=read.media,
                engine=read.engine,
                machine=read.machine,
                limits=read.limits,
                log=run.log,
            )
        run.finish(checkpoint, training)
    remove_finished_states(paths)


@stages.command(rich_help_panel=STAGES)
def features(
    manifest: Annotated[Path, typer.Argument(help="the corpus's manifest")],
    checkpoint: Annotated[Path, typer.Option(help="whose frozen towers to run")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    root: Annotated[
        Path | None, typer.Option(help="the corpus's root; by default that of params")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Run the frozen towers once per clip and keep their outputs."""
    read = read_and_set_threads(params)
    if root is None:
        if manifest.stem not in read.corpora:
            raise typer.BadParameter(f"{params} has no corpora.{manifest.stem}: pass --root")
        root = read.corpora[manifest.stem].root
    launch_or_go_on(read.machine)
    with quick_imports():
        from r1omni.model.features import run_features

    run_features(
        manifest,
        root,
        checkpoint,
        out,
        batch_size=read.machine.features_batch_size,
        workers=read.machine.workers,
        min_free_gb=read.machine.min_free_gb,
        limits=read.limits,
        device=read.machine.device,
        patience=read.machine.rank_patience_seconds,
        elsewhere=_on_ray(read.machine) if read.machine.engine == "ray" else None,
    )


def _on_ray(machine: MachineParams) -> "Elsewhere":
    """Shards as tasks of a Ray cluster, each on one GPU where the towers run on GPUs."""
    from r1omni.machine.ray_cluster import run_on_ray
    from r1omni.model.features import make_shard

    def elsewhere(job: "FeatureJob", numbers: Sequence[int]) -> Iterator[int]:
        work = partial(make_shard, job=job, min_free_gb=machine.min_free_gb)
        return run_on_ray(
            work,
            numbers,
            address=machine.ray_address,
            cpus=max(1, machine.workers),
            gpus=int(machine.device == "cuda"),
        )

    return elsewhere


Parent = Annotated[Path, typer.Argument(help="checkpoint to start from")]
CheckpointOut = Annotated[Path, typer.Argument(help="checkpoint folder to write")]
TrainingOut = Annotated[Path, typer.Option(help="folder to write: curves and rollouts")]


@stages.command("cold-start", rich_help_panel=STAGES)
def cold_start(
    parent: Parent,
    checkpoint: CheckpointOut,
    learned: SetFile,
    training: TrainingOut,
    params: ParamsFile = PARAMS,
) -> None:
    """Fine-tune the base on reasoned clips (the paper's EMER-SFT)."""
    _sft("cold_start", "reasoned", parent, checkpoint, learned, training, params)


@stages.command("label-sft", rich_help_panel=STAGES)
def label_sft(
    parent: Parent,
    checkpoint: CheckpointOut,
    learned: SetFile,
    training: TrainingOut,
    params: ParamsFile = PARAMS,
) -> None:
    """Fine-tune `label_sft.start` on bare labels (the paper's MAFW-DFEW-SFT)."""
    _sft("label_sft", "direct", parent, checkpoint, learned, training, params)


@stages.command(rich_help_panel=STAGES)
def grpo(
    parent: Parent,
    checkpoint: CheckpointOut,
    learned: SetFile,
    training: TrainingOut,
    evidence: Annotated[Path, typer.Option(help="folder of the stage `judges`: for rewards")],
    params: ParamsFile = PARAMS,
) -> None:
    """Train the cold start by GRPO with verifiable rewards (R1-Omni)."""
    read = read_and_set_threads(params)
    launch_or_go_on(read.machine)
    with quick_imports():
        from r1omni.corpora.sets import features_of, manifests_of, read_set
        from r1omni.machine.state_folders import remove_finished_states
        from r1omni.tracking.runs import open_run
        from r1omni.training.grpo import run_grpo

    members = read_set(learned)
    manifests, features = manifests_of(members), features_of(members)
    paths = _training_paths(checkpoint, training)
    with open_run(
        "grpo",
        tracking=read.tracking,
        **_described(
            "grpo",
            params,
            read.machine,
            grpo=read.grpo,
            held_out=read.held_out,
            engine=read.engine,
        ),
        datasets=manifests,
        tags=_origin(parent, features),
        state=paths.state.with_suffix(".run.json"),
    ) as run:
        run_grpo(
            parent,
            manifests,
            features,
            evidence,
            paths,
            grpo=read.grpo,
            held_out=read.held_out,
            engine=read.engine,
            machine=read.machine,
            log=run.log,
        )
        run.finish(checkpoint, training)
    remove_finished_states(paths)


def _sft(
    stage: str,
    mode: "AnswerMode",
    parent: Path,
    checkpoint: Path,
    learned: Path,
    training: Path,
    params: Path,
) -> None:
    read = read_and_set_threads(params)
    launch_or_go_on(read.machine)
    with quick_imports():
        from r1omni.corpora.sets import features_of, manifests_of, read_set
        from r1omni.machine.state_folders import remove_finished_states
        from r1omni.tracking.runs import open_run
        from r1omni.training.sft import run_sft

    members = read_set(learned)
    manifests, features = manifests_of(members), features_of(members)
    paths = _training_paths(checkpoint, training)
    sft = read.cold_start if stage == "cold_start" else read.label_sft
    held_out = read.held_out if stage == "label_sft" else None
    watched = {} if held_out is None else {"held_out": held_out}
    with open_run(
        stage,
        tracking=read.tracking,
        **_described(stage, params, read.machine, **{stage: sft}, engine=read.engine, **watched),
        datasets=manifests,
        tags=_origin(parent, features),
        state=paths.state.with_suffix(".run.json"),
    ) as run:
        run_sft(
            parent,
            manifests,
            features,
            paths,
            mode=mode,
            sft=sft,
            engine=read.engine,
            machine=read.machine,
            log=run.log,
            held_out=held_out,
        )
        run.finish(checkpoint, training)
    remove_finished_states(paths)


def _origin(parent: Path, features: list[Path]) -> dict[str, str]:
    """Tags of what a training starts from; where one is another, MLflow's run is another too."""
    from r1omni.model.feature_store import INDEX
    from r1omni.tracking.provenance import content_hash
    from r1omni.training.recipe import fingerprint

    return {
        "parent": content_hash(parent),
        "training_code": code_hash()[:32],
        "features": fingerprint([], [folder / INDEX for folder in features])[:32],
    }


def _described(
    stage: str, params: Path, machine: MachineParams, **sections: Section
) -> dict[str, Any]:
    """What MLflow notes of the params: a name of what is special, the recipe, and apart from it
    what changes only time and memory.
    """
    from r1omni.stages.run_names import run_name

    return {
        "name": run_name(stage, sections, params),
        "params": {name: section.recipe() for name, section in sections.items()},
        "machine": {"machine": machine.recipe()},
    }


def _training_paths(checkpoint: Path, training: Path) -> "TrainingPaths":
    from r1omni.machine.state_folders import TrainingPaths

    return TrainingPaths(checkpoint, training, Path(".state") / checkpoint.name)
