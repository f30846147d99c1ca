"""What `r1omni predict` takes from params.yaml, or in a folder without one from its own defaults.

A user's clips lie anywhere, so `predict` is the one command that works outside of the project.
Imports no torch, so that the command line answers at once.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from r1omni.config import ServeParams, TrackingParams
from r1omni.limits import Limits
from r1omni.params_file import ParamsError, read_params


@dataclass(frozen=True)
class PredictOptions:
    """How files are read and answered. `tracking` None: no params.yaml names MLflow's store.

    `threads` 0: as many as there are cores.
    """

    batch_size: int
    max_new_tokens: int
    timeout_seconds: float
    max_pixels: int
    memory_mb: int
    threads: int
    device: Literal["auto", "cpu", "cuda"]
    serve: ServeParams
    tracking: TrackingParams | None = None

    @property
    def limits(self) -> Limits:
        """What one file may cost the process that reads it."""
        return Limits(self.timeout_seconds, self.max_pixels, self.memory_mb)

    def set_threads(self) -> None:
        """Tell torch, which must not be imported yet, unless OMP_NUM_THREADS is set already."""
        threads = self.threads or len(os.sched_getaffinity(0))
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


# For a checkpoint of any size: a rationale of the published ones has some 200 tokens.
DEFAULTS: Final = PredictOptions(
    batch_size=16,
    max_new_tokens=512,
    timeout_seconds=60.0,
    max_pixels=4096 * 2304,
    memory_mb=768,
    threads=0,
    device="auto",
    serve=ServeParams(
        answer="model",
        samples=1,
        temperature=1.0,
        port=5001,
        max_body_mb=64,
        max_rows=64,
        max_requests=64,
        timeout_seconds=300,
        url_schemes=(),
        fetch_seconds=30.0,
        demo_port=7860,
    ),
)
HERE: Final = Path("params.yaml")


def _help(text: str, default: object) -> str:
    return f"{text} (without params.yaml: {default})"


BatchSize = Annotated[
    int | None, typer.Option(min=1, help=_help("files answered at once", DEFAULTS.batch_size))
]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help=_help("tokens of an answer", DEFAULTS.max_new_tokens))
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", min=0.01, help=_help("seconds to read a file", DEFAULTS.timeout_seconds)
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(min=1, help=_help("width x height of a frame, at most", DEFAULTS.max_pixels)),
]
MemoryMb = Annotated[
    int | None,
    typer.Option(min=64, help=_help("MiB that reading a file may take", DEFAULTS.memory_mb)),
]
Threads = Annotated[
    int | None, typer.Option(min=0, help=_help("the model's; 0: one a core", DEFAULTS.threads))
]
OnDevice = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option("--device", help=_help("where the model runs", DEFAULTS.device)),
]


Samples = Annotated[
    int, typer.Option(min=1, help="with --answer reader: completions that it reads; 1: the greedy")
]
Temperature = Annotated[
    float | None,
    typer.Option(min=0.01, help=_help("of more samples than one", DEFAULTS.serve.temperature)),
]


def choose_options(
    params: Path | None, no_params: bool, given: Mapping[str, Any]
) -> PredictOptions:
    """The options that are `given` (not None); the others from `params`, or the defaults.

    `params` None: params.yaml if it is here, unless `no_params`. Raises ParamsError for a file that
    is not ours.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    if no_params or (params is None and not HERE.exists()):
        return replace(DEFAULTS, **chosen)
    try:
        read = read_params(params or HERE)
    except ParamsError as error:
        if params is not None:
            raise
        hint = "if it is another program's, pass --no-params: predict has defaults of its own"
        raise ParamsError(f"{error}\n{hint}") from error
    written = PredictOptions(
        batch_size=read.machine.predict_batch_size,
        max_new_tokens=read.predict.max_new_tokens,
        timeout_seconds=read.machine.clip_timeout_seconds,
        max_pixels=read.ingest.max_pixels,
        memory_mb=read.machine.clip_memory_mb,
        threads=read.machine.threads,
        device=read.machine.device,
        serve=read.serve,
        tracking=read.tracking,
    )
    return replace(written, **chosen)
