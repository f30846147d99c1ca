"""MLflow's store: its tables and files, and its creation exactly once.

MLflow's tables have absolute artifact paths. After a project was moved or copied they name the old
folder; opening the store sets them to the new one.
"""

import fcntl
import logging
import os
import re
import sqlite3
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from r1omni.config import TrackingParams
from r1omni.machine.imports import quick_imports
from r1omni.tracking.database import create_tables, database_lock, is_postgresql, tables_of

SQLITE = "sqlite:///"
# The tables of a complete store; MLflow's migrations create some of these only at their end.
TABLES = {"alembic_version", "experiments", "runs", "metrics", "registered_model_aliases"}
# The columns of MLflow's tables with the address of an artifact or of a folder of artifacts.
ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
ARTIFACTS = "mlartifacts"

logger = logging.getLogger(__name__)


class StoreUnreachable(RuntimeError):
    """The tracking store cannot be read or written now; the message gives its URI and the cause."""


def project_root() -> Path:
    """The folder to which the paths of relative stores refer.

    DVC sets DVC_ROOT, also for a queued experiment. That runs in a temporary copy, and an mlflow.db
    there would be removed with it. Without DVC: the current directory.
    """
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).absolute()


def resolve_uri(uri: str) -> str:
    """`uri` with a relative SQLite path made absolute under the project's root."""
    if not uri.startswith(SQLITE):
        return uri
    return SQLITE + str(project_root() / uri.removeprefix(SQLITE))


def has_store(uri: str) -> bool:
    """Whether the SQLite file of `uri` is there; a server is taken to be."""
    return not uri.startswith(SQLITE) or Path(resolve_uri(uri).removeprefix(SQLITE)).is_file()


def artifact_root(uri: str) -> Path:
    """The folder mlartifacts/ beside the SQLite file of `uri`, or under the project's root."""
    if not uri.startswith(SQLITE):
        return project_root() / ARTIFACTS
    return Path(resolve_uri(uri).removeprefix(SQLITE)).parent / ARTIFACTS


def local_path(uri: str) -> Path | None:
    """The path of an artifact address on this machine's disk; None for any other address."""
    parts = urllib.parse.urlsplit(uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(urllib.parse.unquote(parts.path))


@contextmanager
def locked(uri: str) -> Iterator[None]:
    """Hold the store's lock: one process at a time creates the store or a model version.

    Of several machines with one PostgreSQL too; with a server only of those with this project.
    """
    folder = artifact_root(uri).parent / ".state"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / "mlflow.lock").open("w")
    except OSError as error:
        raise StoreUnreachable(f"{uri}: {error}") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if not is_postgresql(uri):
            yield
            return
        with translate_store_errors(uri), database_lock(uri):
            yield


def ensure_store(uri: str, artifacts: str | None = None) -> str:
    """The absolute URI of a store whose tables exist; missing ones are created.

    The artifact paths of a SQLite store are updated to the store's present folder.
    Concurrent first use corrupts MLflow's SQLite, and so does a kill in the middle of its
    migrations. Hence one process at a time creates it under another name and then renames it.
    `artifacts`: `tracking.artifacts`, for PostgreSQL. Raises StoreUnreachable if that fails.
    """
    absolute = resolve_uri(uri)
    if is_postgresql(uri):
        with translate_store_errors(uri):
            if not tables_of(uri) >= TABLES:
                with locked(uri):
                    create_tables(uri, artifacts or str(project_root() / ARTIFACTS))
    if not absolute.startswith(SQLITE):
        return absolute
    path = Path(absolute.removeprefix(SQLITE))
    root = artifact_root(uri)
    if _complete(path) and not _previous_roots(path, root):
        return absolute
    with locked(uri):
        if _complete(path):
            for old in _previous_roots(path, root):  # the project was moved or copied
                _update_artifact_paths(path, old, root)
            return absolute
        if path.exists() and path.stat().st_size:
            raise StoreUnreachable(f"{path}: exists, but is not a complete MLflow database")
        _create(path, root)
    return absolute


def open_client(tracking: TrackingParams) -> tuple[Any, str]:
    """An MlflowClient on the store, and the id of the experiment, which is created if missing.

    Raises StoreUnreachable.
    """
    with quick_imports():
        from mlflow import MlflowClient

    uri = ensure_store(tracking.uri, tracking.artifacts)
    with translate_store_errors(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        found = client.get_experiment_by_name(tracking.experiment)
        if found is None:
            with locked(tracking.uri):
                found = client.get_experiment_by_name(tracking.experiment)
                if found is None:
                    return client, str(_create_experiment(client, tracking))
        _check_artifacts(tracking, found.artifact_location)
        return client, str(found.experiment_id)


@contextmanager
def translate_store_errors(uri: str) -> Iterator[None]:
    """Turn errors of MLflow, its database driver or the system into StoreUnreachable."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        # The cause's own text is in the traceback alone, which R1OMNI_DEBUG shows.
        raise StoreUnreachable(mask_password(f"{uri}: {first_line}")) from error


def mask_password(text: str) -> str:
    """The text with *** for the password of every address like scheme://user:password@host."""
    return re.sub(r"(\w://[^/\s:@]*):[^/\s]*@", r"\1:***@", text)


def artifact_address(tracking: TrackingParams) -> str | None:
    """Where a new experiment of this store keeps its files; None for a server, which knows.

    Raises ValueError for a database without `tracking.artifacts`.
    """
    if tracking.uri.startswith(SQLITE):
        return artifact_root(tracking.uri).as_uri()
    if tracking.uri.startswith(("http://", "https://")):
        return None
    if tracking.artifacts is None:
        raise ValueError(
            f"{mask_password(tracking.uri)}: tracking.artifacts in params must say where the "
            "database's users keep checkpoints: s3://bucket/folder, or a folder that all share"
        )
    return tracking.artifacts.rstrip("/")


def _create_experiment(client: Any, tracking: TrackingParams) -> str:
    address = artifact_address(tracking)
    return str(client.create_experiment(tracking.experiment, artifact_location=address))


def _check_artifacts(tracking: TrackingParams, location: str) -> None:
    """Raise StoreUnreachable if artifacts would be written outside the store's own place."""
    path = local_path(location)
    local = path is not None or tracking.artifacts is not None or tracking.uri.startswith(SQLITE)
    expected = artifact_address(tracking) if local else None
    if expected is None:
        return
    root = local_path(expected)
    if root is None or path is None:
        inside = location == expected or location.startswith(f"{expected}/")
    else:
        inside = path.resolve().is_relative_to(root.resolve())
    if not inside:
        raise StoreUnreachable(
            f"{mask_password(tracking.uri)}: the experiment {tracking.experiment!r} keeps its "
            f"artifacts in {location}, not in {expected}; set another tracking.experiment, "
            "tracking.artifacts or tracking.uri in params"
        )


def _complete(path: Path) -> bool:
    if not path.is_file():
        return False
    with _transaction(path) as connection:
        rows = connection.execute("select name from sqlite_master where type = 'table'")
        return {name for (name,) in rows} >= TABLES


@contextmanager
def _transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """One transaction on an existing SQLite file. Raises StoreUnreachable."""
    try:
        # For writing: SQLite must roll back a killed writer's transaction before it reads.
        address = f"file:{urllib.parse.quote(str(path))}?mode=rw"
        with closing(sqlite3.connect(address, uri=True)) as connection, connection:
            yield connection
    except sqlite3.Error as error:
        raise StoreUnreachable(f"{path}: {error}") from error


def _previous_roots(path: Path, root: Path) -> list[Path]:
    """The artifact folders of experiments that were created before the project was moved.

    A second name of `root` (a symbolic link to the project) does not count.
    """
    with _transaction(path) as connection:
        rows = connection.execute("select distinct artifact_location from experiments").fetchall()
    locations = [location for (text,) in rows if (location := local_path(text or "")) is not None]
    folders = {
        folder
        for location in locations
        for folder in (location, location.parent)  # MLflow's own experiment lies one level deeper
        if folder.name == ARTIFACTS and folder != root
    }
    return sorted(f for f in folders if not (f.exists() and root.exists() and f.samefile(root)))


def _update_artifact_paths(path: Path, old: Path, new: Path) -> None:
    """Replace the folder `old` by `new` in every artifact address of the SQLite file."""
    with _transaction(path) as connection:
        rows = connection.execute(
            "select m.name, p.name from sqlite_master m, pragma_table_info(m.name) p"
        )
        present = set(rows)
        changed = 0
        for table, column in present.intersection(ARTIFACT_COLUMNS):
            for before, after in ((old.as_uri(), new.as_uri()), (str(old), str(new))):
                changed += connection.execute(
                    f"update {table} set {column} = :after || substr({column}, length(:before) + 1)"
                    f" where {column} = :before"
                    f" or substr({column}, 1, length(:before) + 1) = :before || '/'",
                    {"before": before, "after": after},
                ).rowcount
    logger.warning(
        "%s: the project was moved or copied: %d artifact paths now name %s, no longer %s",
        path,
        changed,
        new,
        old,
    )


def _create(path: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    temporary = path.with_name(f"{path.name}.new")
    logger.info("creating %s (some seconds, once)", path)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with translate_store_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        store = SqlAlchemyStore(f"{SQLITE}{temporary}", artifacts.as_uri())
        store.engine.dispose()
        temporary.replace(path)
