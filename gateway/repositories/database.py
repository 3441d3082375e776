"""The database: how it is opened so that nothing committed is lost, and how its failures read."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, orm, text
from sqlalchemy.exc import SQLAlchemyError

from gateway.errors import DatabaseUnavailable, DiskFull
from gateway.repositories.sessions import SessionRows

_BUSY_TIMEOUT_MS = 5000
_CONNECTIONS_KEPT = 32  # opening one takes longer than most of what is asked of it


def make_engine(path: Path) -> Engine:
    """An engine whose connections lose nothing: WAL with FULL sync, and every transaction IMMEDIATE.

    A deferred transaction that reads, then writes, fails or loses updates under concurrency; the
    driver's own implicit BEGIN is therefore turned off and ours put in its place.
    """
    # parameters are hidden: rows hold private keys, which an error would quote to the log
    engine = create_engine(f"sqlite:///{path}", pool_size=_CONNECTIONS_KEPT, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get("read_only", False)
        if not read_only:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


class SqlDatabase:
    """Transactions over the sessions' rows. Rows stay readable after their transaction is over."""

    def __init__(self, path: Path) -> None:
        self.engine = make_engine(path)
        # SQLite lets those who wait for its lock try again after ever longer pauses; with many threads some
        # would never be lucky. Threads queue here, so that only processes contend there.
        self._writing = threading.Lock()
        self._begin = orm.sessionmaker(self.engine, expire_on_commit=False)
        self._read = orm.sessionmaker(self.engine.execution_options(read_only=True), expire_on_commit=False)

    @contextmanager
    def begin(self) -> Iterator[SessionRows]:
        """A transaction that may write, committed when the block ends without an error."""
        with self._writing, translated_errors(), self._begin.begin() as session:
            yield SessionRows(session)

    @contextmanager
    def read(self) -> Iterator[SessionRows]:
        """Reads without a transaction, waiting for nobody: each statement sees what is committed by then."""
        with translated_errors(), self._read() as session:
            yield SessionRows(session)

    def check(self) -> None:
        """Raises `DatabaseUnavailable` when the database does not answer."""
        with translated_errors(), self.engine.connect() as connection:
            connection.execute(text("SELECT 1"))


@contextmanager
def translated_errors() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(getattr(error, "orig", None) or type(error).__name__)
        if "disk is full" in cause or "disk I/O error" in cause:
            raise DiskFull(
                "The disk of the session database is full; nothing was changed. Free some space."
            ) from error
        raise DatabaseUnavailable(
            f"The session database did not answer ({cause}); try again shortly."
        ) from error
