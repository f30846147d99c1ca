"""A store in PostgreSQL: whether it answers, its tables, and one process at a time.

MLflow itself tries an unreachable database for 100 seconds, and several first uses at once fail.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

POSTGRESQL = "postgresql"
LOCK = 2503_05379  # the advisory lock's number in the database; any that no other program takes


def is_postgresql(uri: str) -> bool:
    """Whether the address is PostgreSQL's, with or without a driver's name."""
    return uri.partition(":")[0].partition("+")[0] == POSTGRESQL


def tables_of(uri: str) -> set[str]:
    """The names of the database's tables.

    Raises SQLAlchemy's error, within some seconds, if the database does not answer; ValueError if
    its driver is not installed.
    """
    from sqlalchemy import inspect

    with _engine(uri).connect() as connection:
        return set(inspect(connection).get_table_names())


@contextmanager
def database_lock(uri: str) -> Iterator[None]:
    """Hold the database's lock: one process of all machines at a time. Raises as `tables_of`.

    A process that dies loses the lock with its connection.
    """
    from sqlalchemy import text

    with _engine(uri).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("select pg_advisory_lock(:number)"), {"number": LOCK})
        yield


def create_tables(uri: str, artifacts: str) -> None:
    """Make MLflow's tables. The caller holds the lock.

    `artifacts`: the address below which MLflow's own experiment keeps its files.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, artifacts).engine.dispose()


def _engine(uri: str) -> Any:
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    try:
        return create_engine(uri, poolclass=NullPool)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"PostgreSQL needs a driver: {error}: in the repository, "
            "pip install -c constraints.txt -e '.[postgresql]'"
        ) from error
