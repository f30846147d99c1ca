"""One command per pipeline stage, called by dvc.yaml with its paths. Imports late."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from r1omni.config import MachineParams, Params, SyntheticCorpus
from r1omni.own_code import changed_code, code_at_start, code_hash, refuse_changed_code
from r1omni.params_file import check_listed, read_params
from r1omni.section import Section

if TYPE_CHECKING:
    from r1omni.machine.state_folders import TrainingPaths
    from r1omni.prompts import AnswerMode


class StageCommand(TyperCommand):
    """A stage's command. It fails if our code changed while it ran.

    DVC would note its outputs as made by the code that it finds afterwards.
    """

    def invoke(self, ctx: Any) -> Any:
        """What the command returns. Raises CodeChanged, or SystemExit where another rank ended."""
        from r1omni.machine.launch import PEER_LOST, RENDEZVOUS, lost_peer

        code_at_start()
        try:
            result = super().invoke(ctx)
        except RuntimeError as error:
            if RENDEZVOUS in os.environ and lost_peer(error):
                raise SystemExit(PEER_LOST) from error  # the launcher says which and why
            raise
        again = "what it wrote may come of either version; run it again"
        refuse_changed_code(changed_code(), str(self.name), again)
        return result


stages = typer.Typer(pretty_exceptions_enable=False)
STAGES = "Stages (dvc.yaml calls them with their paths)"

ParamsFile = Annotated[Path, typer.Option("--params", help="The file with every number.")]
PARAMS = Path("params.yaml")


@stages.command(rich_help_panel=STAGES)
def synthesize(
    corpus: Annotated[SyntheticCorpus, typer.Argument(help="which corpus to render")],
    out: Annotated[Path, typer.Argument(help="the corpus's root folder")],
    truth: Annotated[Path, typer.Option(help="side file with each clip's true attributes")],
    params: ParamsFile = PARAMS,
) -> None:
    """Render a synthetic corpus as mp4 files in the real corpus's layout."""
    from r1omni.corpora.synthetic.synthesize import run_synthesize

    read = read_params(params)
    workers = read.machine.workers
    run_synthesize(out, truth, corpus=corpus, synthetic=read.synthetic, workers=workers)


Tower = Annotated[
    str | None, typer.Option(metavar="OWNER/NAME@REVISION", help="fetched into the same folder")
]


@stages.command(rich_help_panel=STAGES)
def fetch(
    repo: Annotated[str, typer.Argument(help="a checkpoint on the Hugging Face hub, OWNER/NAME")],
    folder: Annotated[Path, typer.Argument(help="folder to write; not there yet")],
    revision: Annotated[str, typer.Option(help="branch, tag or commit")],
    vision: Tower = None,
    audio: Tower = None,
    gate: Tower = None,
) -> None:
    """Fetch a checkpoint and its towers from the hub, whole or not at all."""
    from r1omni.hub import run_fetch

    towers = {"vision": vision, "audio": audio, "gate": gate}
    given = {tower: place for tower, place in towers.items() if place is not None}
    run_fetch(repo, folder, revision=revision, towers=given)


@stages.command(rich_help_panel=STAGES)
def ingest(
    corpus: Annotated[
        str,
        typer.Option("--corpus", "--adapter", help="dfew, mafw, ravdess, conversations or emer"),
    ],
    root: Annotated[Path, typer.Option(help="where the corpus lies; never written to")],
    manifest: Annotated[Path, typer.Option(help="parquet file to write: one clip a row")],
    rejects: Annotated[Path, typer.Option(help="parquet file to write: what was left out and why")],
    fold: Annotated[int, typer.Option(help="the official fold, 1 to 5")] = 1,
    params: ParamsFile = PARAMS,
) -> None:
    """Read a corpus in its own layout: clips to the manifest, the rest to the rejects."""
    from r1omni.corpora.ingest import run_ingest

    read = read_params(params)
    run_ingest(
        root,
        manifest,
        rejects,
        corpus=corpus,
        fold=fold,
        ingest=read.ingest,
        limits=read.limits,
        workers=read.machine.workers,
    )


@stages.command(rich_help_panel=STAGES)
def validate(
    manifests: Annotated[list[Path], typer.Argument(help="manifests of all corpora")],
    summary: Annotated[Path, typer.Option(help="JSON file to write")],
    docs: Annotated[Path, typer.Option(help="folder to write: Great Expectations' Data Docs")],
    params: ParamsFile = PARAMS,
) -> None:
    """Check the manifests against one Great Expectations suite; fail on a broken rule."""
    from r1omni.corpora.validation import run_validate

    read = read_params(params)
    check_listed(set(read.corpora), {path.stem for path in manifests}, params)
    run_validate(
        manifests,
        summary,
        docs,
        validation=read.validation,
        missing_audio=read.ingest.missing_audio,
    )


@stages.command(rich_help_panel=STAGES)
def base(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint folder to write")],
    reasoning: Annotated[Path, typer.Option(help="manifest of the reasoned clips")],
    training: Annotated[Path, typer.Option(help="folder to write: curves")],
    params: ParamsFile = PARAMS,
) -> None:
    """Make the base model from `base.source`: convert a checkpoint, or train on generic clips."""
    read = _training_params(params)
    source = read.base.source
    _launch(read.machine)
    from r1omni.base_model.stage import run_base
    from r1omni.hub import explained
    from r1omni.machine.state_folders import drop_state
    from r1omni.tracking.runs import open_run

    paths = _training_paths(checkpoint, training)
    with open_run(
        "base",
        tracking=read.tracking,
        **_described(
            read.machine, base=read.base, model=read.model, media=read.media, engine=read.engine
        ),
        datasets=[reasoning, *source.glob("annotations.json")],
        tags={"training_code": code_hash()[:32]},
        state=paths.state.with_suffix(".run.json"),
    ) as run:
        with explained(str(source)):
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
    drop_state(paths)


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
    read = _training_params(params)
    if root is None:
        if manifest.stem not in read.corpora:
            raise typer.BadParameter(f"{params} has no corpora.{manifest.stem}: pass --root")
        root = read.corpora[manifest.stem].root
    _launch(read.machine)
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
    )


Manifests = Annotated[list[Path], typer.Option("--manifest", help="manifest; repeatable")]
FeatureFolders = Annotated[
    list[Path], typer.Option("--features", help="cached tower outputs; repeatable")
]
Parent = Annotated[Path, typer.Argument(help="checkpoint to start from")]
CheckpointOut = Annotated[Path, typer.Argument(help="checkpoint folder to write")]
TrainingOut = Annotated[Path, typer.Option(help="folder to write: curves and rollouts")]


@stages.command("cold-start", rich_help_panel=STAGES)
def cold_start(
    parent: Parent,
    checkpoint: CheckpointOut,
    manifest: Manifests,
    features: FeatureFolders,
    training: TrainingOut,
    params: ParamsFile = PARAMS,
) -> None:
    """Fine-tune the base on reasoned clips (the paper's EMER-SFT)."""
    _sft("cold_start", "reasoned", parent, checkpoint, manifest, features, training, params)


@stages.command("label-sft", rich_help_panel=STAGES)
def label_sft(
    parent: Parent,
    checkpoint: CheckpointOut,
    manifest: Manifests,
    features: FeatureFolders,
    training: TrainingOut,
    params: ParamsFile = PARAMS,
) -> None:
    """Fine-tune the base on bare labels (the paper's MAFW-DFEW-SFT)."""
    _sft("label_sft", "direct", parent, checkpoint, manifest, features, training, params)


@stages.command(rich_help_panel=STAGES)
def grpo(
    parent: Parent,
    checkpoint: CheckpointOut,
    manifest: Manifests,
    features: FeatureFolders,
    training: TrainingOut,
    params: ParamsFile = PARAMS,
) -> None:
    """Train the cold start by GRPO with verifiable rewards (R1-Omni)."""
    read = _training_params(params)
    _launch(read.machine)
    from r1omni.machine.state_folders import drop_state
    from r1omni.tracking.runs import open_run
    from r1omni.training.grpo import run_grpo

    paths = _training_paths(checkpoint, training)
    with open_run(
        "grpo",
        tracking=read.tracking,
        **_described(read.machine, grpo=read.grpo, held_out=read.held_out, engine=read.engine),
        datasets=manifest,
        tags=_origin(parent, features),
        state=paths.state.with_suffix(".run.json"),
    ) as run:
        run_grpo(
            parent,
            manifest,
            features,
            paths,
            grpo=read.grpo,
            held_out=read.held_out,
            engine=read.engine,
            machine=read.machine,
            log=run.log,
        )
        run.finish(checkpoint, training)
    drop_state(paths)


@stages.command("predict-corpora", rich_help_panel=STAGES)
def predict_corpora(
    checkpoint: Annotated[Path, typer.Argument(help="the model to ask")],
    out: Annotated[Path, typer.Argument(help="parquet file to write: one test clip a row")],
    manifest: Manifests,
    features: FeatureFolders,
    params: ParamsFile = PARAMS,
) -> None:
    """Answer every test clip by greedy decoding and keep the raw completions."""
    read = _training_params(params)
    from r1omni.evaluation.predict import run_predict

    run_predict(
        checkpoint,
        manifest,
        features,
        out,
        predict=read.predict,
        batch_size=read.machine.predict_batch_size,
        device=read.machine.device,
    )


@stages.command(rich_help_panel=STAGES)
def score(
    predictions: Annotated[list[Path], typer.Argument(help="predictions of all models")],
    out: Annotated[Path, typer.Option(help="metrics.json to write")],
    plots: Annotated[Path, typer.Option(help="folder to write: CSV files for DVC's plots")],
    summary: Annotated[
        Path | None, typer.Option(help="summary.json to write: what DVC compares")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="folder with the synthetic corpora's side files")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Judge predictions: WAR, UAR, recall, confusion, intervals, calm policies."""
    from r1omni.evaluation.score import run_score

    run_score(
        predictions,
        _within(truth, "*.parquet"),
        out,
        plots,
        summary,
        score=read_params(params).score,
    )


@stages.command(rich_help_panel=STAGES)
def report(
    metrics: Annotated[Path, typer.Argument(help="metrics.json")],
    predictions: Annotated[list[Path], typer.Argument(help="predictions of all models")],
    training: Annotated[Path, typer.Option(help="folder with each stage's curves")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    truth: Annotated[
        Path | None, typer.Option(help="folder with the synthetic corpora's contact sheets")
    ] = None,
    params: ParamsFile = PARAMS,
) -> None:
    """Draw the report: Table 1 beside the paper's, curves, confusion, example clips."""
    from r1omni.evaluation.report.report import run_report

    run_report(
        metrics,
        predictions,
        training,
        _within(truth, "*.png"),
        out,
        report=read_params(params).report,
    )


@stages.command(rich_help_panel=STAGES)
def register(
    name: Annotated[str, typer.Argument(help="base, cold_start, label_sft or grpo")],
    checkpoint: Annotated[Path, typer.Option(help="the checkpoint to register")],
    metrics: Annotated[Path, typer.Option(help="metrics.json")],
    training: Annotated[Path, typer.Option(help="the stage's curves and rollouts")],
    predictions: Annotated[Path, typer.Option(help="the model's predictions")],
    receipt: Annotated[Path, typer.Option(help="JSON file to write")],
    params: ParamsFile = PARAMS,
) -> None:
    """Register a checkpoint in MLflow, once per content hash, by reference to its files."""
    from r1omni.tracking.registry import run_register

    run_register(
        checkpoint,
        metrics,
        training,
        predictions,
        receipt,
        name=name,
        tracking=read_params(params).tracking,
        state=Path(".state") / f"{checkpoint.name}.run.json",
    )


def _sft(
    stage: str,
    mode: "AnswerMode",
    parent: Path,
    checkpoint: Path,
    manifests: list[Path],
    features: list[Path],
    training: Path,
    params: Path,
) -> None:
    read = _training_params(params)
    _launch(read.machine)
    from r1omni.machine.state_folders import drop_state
    from r1omni.tracking.runs import open_run
    from r1omni.training.sft import run_sft

    paths = _training_paths(checkpoint, training)
    sft = read.cold_start if stage == "cold_start" else read.label_sft
    held_out = read.held_out if stage == "label_sft" else None
    watched = {} if held_out is None else {"held_out": held_out}
    with open_run(
        stage,
        tracking=read.tracking,
        **_described(read.machine, **{stage: sft}, engine=read.engine, **watched),
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
    drop_state(paths)


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


def _training_params(path: Path) -> Params:
    """The params, with the thread count set before torch is first imported."""
    params = read_params(path)
    os.environ.setdefault("OMP_NUM_THREADS", str(params.machine.threads))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return params


def _launch(machine: MachineParams) -> None:
    """Run this command in machine.processes ranks and leave, unless this is one of them."""
    from r1omni.machine.launch import launch_ranks

    code = launch_ranks(machine)
    if code is not None:
        raise typer.Exit(code)


def _described(
    machine: MachineParams, **sections: Section
) -> dict[str, dict[str, dict[str, object]]]:
    """What MLflow notes of the params: the recipe, and apart what changes only time and memory."""
    return {
        "params": {name: section.recipe() for name, section in sections.items()},
        "machine": {"machine": machine.recipe()},
    }


def _training_paths(checkpoint: Path, training: Path) -> "TrainingPaths":
    from r1omni.machine.state_folders import TrainingPaths

    return TrainingPaths(checkpoint, training, Path(".state") / checkpoint.name)


def _within(folder: Path | None, pattern: str) -> list[Path]:
    """The matching files of a folder that only the synthetic corpora have."""
    return sorted(folder.glob(pattern)) if folder is not None and folder.is_dir() else []


for _command in stages.registered_commands:
    _command.cls = StageCommand
