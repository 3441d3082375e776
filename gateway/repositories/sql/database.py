"""The database, SQLite or PostgreSQL: transactions over its rows, and how its failures read."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, orm, text
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError

from gateway.database_url import DatabaseUrl
from gateway.errors import DatabaseUnavailable, DiskFull, InvalidRequest
from gateway.repositories.sql import postgresql, sqlite
from gateway.repositories.sql.rows import SessionRows


def make_engine(db: DatabaseUrl) -> Engine:
    """An engine whose transactions come one after another, unless they are `read_only`."""
    return postgresql.make_engine(db.url) if db.path is None else sqlite.make_engine(db.path)


def make_read_only_engine(db: DatabaseUrl) -> Engine:
    """An engine for one look, which changes nothing: see `sqlite.make_read_only_engine`."""
    if db.path is not None:
        return sqlite.make_read_only_engine(db.path)
    return reading(postgresql.make_engine(db.url))


def reading(engine: Engine) -> Engine:
    """The same connections, without transactions: each statement sees what is committed by then."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(read_only=True, isolation_level="AUTOCOMMIT")
    return engine.execution_options(read_only=True)  # the connections are in that mode already


class SqlDatabase:
    """Transactions over the sessions' rows. Rows stay readable after their transaction is over."""

    def __init__(self, db: DatabaseUrl, engine: Callable[[DatabaseUrl], Engine] = make_engine) -> None:
        self.engine = engine(db)
        # SQLite lets those who wait for its lock try again after ever longer pauses; with many threads some
        # would never be lucky. PostgreSQL's queue is fair, but each in it holds a connection. Threads queue
        # here, so that only processes contend there.
        self._writing = threading.Lock()
        self._begin = orm.sessionmaker(self.engine, expire_on_commit=False)
        self._read = orm.sessionmaker(reading(self.engine), expire_on_commit=False)

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
    except DataError as error:  # SQLite keeps any text; PostgreSQL none that is too long or holds a NUL
        raise InvalidRequest(f"The database cannot hold a value of this request ({cause(error)}).") from error
    except SQLAlchemyError as error:
        if _is_disk_full(error):
            raise DiskFull(
                "The disk of the session database is full; nothing was changed. Free some space."
            ) from error
        raise DatabaseUnavailable(
            f"The session database did not answer ({cause(error)}); try again shortly."
        ) from error


def cause(error: SQLAlchemyError) -> str:
    """The driver's own words, in a line."""
    if not isinstance(error, DBAPIError):
        return type(error).__name__
    return postgresql.cause(error.orig) if hasattr(error.orig, "diag") else str(error.orig)


def _is_disk_full(error: SQLAlchemyError) -> bool:
    if isinstance(error, DBAPIError) and hasattr(error.orig, "diag"):
        return postgresql.is_disk_full(error.orig)
    return any(full in cause(error) for full in ("disk is full", "disk I/O error"))
