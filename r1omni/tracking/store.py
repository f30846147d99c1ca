"""Where MLflow keeps its tables and files, and how a store is made exactly once."""

import fcntl
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from r1omni.config import TrackingParams

SQLITE = "sqlite:///"
# What a complete store has; MLflow's migrations create some of these only at their end.
TABLES = {"alembic_version", "experiments", "runs", "metrics", "registered_model_aliases"}

logger = logging.getLogger(__name__)


class StoreUnreachable(RuntimeError):
    """The tracking store cannot be read or written now; the message names it and says why."""


def project_root() -> Path:
    """The folder that relative stores belong to.

    DVC names it in DVC_ROOT, also for an experiment in its queue, which runs in a temporary copy
    that would take mlflow.db along when it is removed. Without DVC: the current directory.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).absolute()


def resolve_uri(uri: str) -> str:
    """`uri` with a relative SQLite path made absolute under the project's root."""
    if not uri.startswith(SQLITE):
        return uri
    return SQLITE + str(project_root() / uri.removeprefix(SQLITE))


def artifact_root(uri: str) -> Path:
    """The folder mlartifacts/ beside the SQLite file of `uri`, or under the project's root."""
    if not uri.startswith(SQLITE):
        return project_root() / "mlartifacts"
    return Path(resolve_uri(uri).removeprefix(SQLITE)).parent / "mlartifacts"


@contextmanager
def locked(uri: str) -> Iterator[None]:
    """One process at a time for whoever creates the store or a model version in it."""
    folder = artifact_root(uri).parent / ".state"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "mlflow.lock").open("w")
    except OSError as error:
        raise StoreUnreachable(f"{uri}: {error}") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ensure_store(uri: str) -> str:
    """The absolute URI of a store whose tables exist; a SQLite one is created where it is missing.

    Concurrent first use corrupts MLflow's SQLite, and so does a kill in the middle of its
    migrations. Hence one process at a time creates it under another name and then renames it.
    Raises StoreUnreachable where that cannot be done.
    """
    absolute = resolve_uri(uri)
    if not absolute.startswith(SQLITE):
        return absolute
    path = Path(absolute.removeprefix(SQLITE))
    if _complete(path):
        return absolute
    with locked(uri):
        if _complete(path):
            return absolute
        if path.exists() and path.stat().st_size:
            raise StoreUnreachable(f"{path}: exists, but is not a complete MLflow database")
        _create(path, artifact_root(uri))
    return absolute


def open_client(tracking: TrackingParams) -> tuple[Any, str]:
    """An MlflowClient on the store, and the id of the experiment, which is created if missing.

    Raises StoreUnreachable.
    """
    from mlflow import MlflowClient

    uri = ensure_store(tracking.uri)
    with reaching(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = client.get_experiment_by_name(tracking.experiment)
        if found is None:
            with locked(tracking.uri):
                found = client.get_experiment_by_name(tracking.experiment)
                if found is None:
                    return client, str(_create_experiment(client, tracking))
        return client, str(found.experiment_id)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turns what MLflow, its database driver or the system raise into StoreUnreachable."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreUnreachable(f"{uri}: {first_line}") from error


def _create_experiment(client: Any, tracking: TrackingParams) -> str:
    if not tracking.uri.startswith(SQLITE):  # a server keeps its own artifacts
        return str(client.create_experiment(tracking.experiment))
    location = artifact_root(tracking.uri).as_uri()
    return str(client.create_experiment(tracking.experiment, artifact_location=location))


def _complete(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        # For writing: what a killed writer left half done must be rolled back before it is read.
        with sqlite3.connect(f"file:{path}?mode=rw", uri=True) as connection:
            rows = connection.execute("select name from sqlite_master where type = 'table'")
            names = {name for (name,) in rows}
        connection.close()
    except sqlite3.Error as error:
        raise StoreUnreachable(f"{path}: {error}") from error
    return names >= TABLES


def _create(path: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    temporary = path.with_name(f"{path.name}.new")
    logger.info("creating %s (some seconds, once)", path)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with reaching(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        store = SqlAlchemyStore(f"{SQLITE}{temporary}", artifacts.as_uri())
        store.engine.dispose()
        temporary.replace(path)
