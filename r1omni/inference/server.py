"""`r1omni serve`: a registered model behind MLflow's scoring server, on this machine alone."""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from r1omni.config import ServeParams, TrackingParams
from r1omni.inference.served import MEDIA_ROOT
from r1omni.loopback import HOST, check_port

MLMODEL = "MLmodel"


def run_serve(
    model: str, port: int, media_root: Path | None, *, serve: ServeParams, tracking: TrackingParams
) -> None:
    """Serve `model` on 127.0.0.1:`port` until SIGINT or SIGTERM.

    `model`: models:/NAME@ALIAS, or the folder of an MLflow Model. Raises PortTaken; ValueError for
    what is no such model and for a media root that is no folder; StoreUnreachable.
    """
    check_port(port)  # before the model is loaded
    if media_root is not None:
        if not media_root.is_dir():
            raise ValueError(f"{media_root}: is no folder; expected --media-root FOLDER")
        os.environ[MEDIA_ROOT] = str(media_root.absolute())
    folder = model_folder(model, tracking)
    from r1omni.tracking.scoring import scoring_app

    app = scoring_app(folder, serve)
    sys.stderr.write(f"{model}: http://{HOST}:{port}/invocations (Ctrl-C stops it)\n")
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(app, port, serve))


def model_folder(model: str, tracking: TrackingParams) -> Path:
    """The folder with the model's MLmodel. Raises ValueError if there is none."""
    folder = Path(model)
    if model.startswith("models:/"):
        from r1omni.tracking.registry import model_directory

        folder = model_directory(model, tracking).parent
    if not (folder / MLMODEL).is_file():
        raise ValueError(
            f"{model}: {folder} has no file {MLMODEL}; expected models:/NAME@ALIAS or the folder "
            "of an MLflow Model. Register the checkpoint again if its version is an older one"
        )
    return folder


async def _serve(app: Any, port: int, serve: ServeParams) -> None:
    import uvicorn

    # MLflow answers each request in a thread of this pool; asyncio's own has one per core and four.
    threads = ThreadPoolExecutor(serve.max_requests)
    asyncio.get_running_loop().set_default_executor(threads)
    config = uvicorn.Config(
        app,
        host=HOST,
        port=port,
        log_level="warning",
        limit_concurrency=serve.max_requests + 1,  # it counts the new connection too
        timeout_graceful_shutdown=serve.timeout_seconds,
    )
    await uvicorn.Server(config).serve()
