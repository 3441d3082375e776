"""The database, SQLite or PostgreSQL: transactions over its rows, and the translation of its errors."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Engine, Select, bindparam, orm, select, update
from sqlalchemy.exc import DataError, DBAPIError, SQLAlchemyError

from gateway.database_url import DatabaseUrl
from gateway.domain.models import Deployment, SignIn, Token
from gateway.errors import DatabaseReadOnly, DatabaseUnavailable, DiskFull, InvalidRequest
from gateway.repositories.sql import postgresql, sqlite
from gateway.repositories.sql.rows import SessionRows

_TOKEN = select(Token.__table__)
_OF_HASH = _TOKEN.where(Token.hash == bindparam("hashed"))
_OF_SIGN_IN = _TOKEN.join(SignIn, SignIn.token == Token.name).where(
    SignIn.hash == bindparam("hashed"), SignIn.until > bindparam("now")
)


def make_engine(db: DatabaseUrl) -> Engine:
    """Return an engine whose transactions run one after another, except `read_only` ones."""
    return postgresql.make_engine(db.url) if db.path is None else sqlite.make_engine(db.path)


def make_read_only_engine(db: DatabaseUrl) -> Engine:
    """Return an engine that changes nothing; see `sqlite.make_read_only_engine`."""
    if db.path is not None:
        return reading(sqlite.make_read_only_engine(db.path))
    return reading(postgresql.make_engine(db.url))


def reading(engine: Engine) -> Engine:
    """Return `engine` with transactions that only read: all statements of one see the same moment."""
    if engine.dialect.name == "postgresql":
        return engine.execution_options(
            read_only=True, isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
    return engine.execution_options(read_only=True)  # SQLite's transactions see one moment


def without_transactions(engine: Engine) -> Engine:
    """Return `engine` with statements that each commit by itself: a connection that waits holds no lock on
    rows, and PostgreSQL does not close it as idle in a transaction."""
    return engine.execution_options(read_only=True, isolation_level="AUTOCOMMIT")


class SqlDatabase:
    """Transactions over the gateway's rows. Rows stay readable after their transaction ends."""

    def __init__(self, db: DatabaseUrl, engine: Callable[[DatabaseUrl], Engine] = make_engine) -> None:
        self.engine = engine(db)
        # Threads queue here, so that only processes contend for the database's lock. SQLite has no queue: a
        # waiting thread polls with growing pauses, so some threads would time out. PostgreSQL's queue is
        # fair, but each waiting thread would hold a connection.
        self._writing = threading.Lock()
        self._begin = orm.sessionmaker(self.engine, expire_on_commit=False)
        self._reading = reading(self.engine)
        self._read = orm.sessionmaker(self._reading, expire_on_commit=False)

    @contextmanager
    def begin(self) -> Iterator[SessionRows]:
        """Begin a transaction that may write. It is committed if the block ends without an error."""
        with self._writing, self._fresh_after_read_only(), self._begin.begin() as session:
            yield SessionRows(session)

    @contextmanager
    def read(self) -> Iterator[SessionRows]:
        """Read without locks. All statements see the same moment: that of the first one."""
        with translated_errors(), self._read() as session:
            yield SessionRows(session)

    def has_tokens(self) -> bool:
        """As `Rows.has_tokens`. Every request without a token asks this, so the statement goes to the driver
        as it is, which takes a tenth of the time."""
        try:
            connection = self.engine.raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute("SELECT 1 FROM tokens LIMIT 1")
                return cursor.fetchone() is not None
            finally:
                connection.close()
        except Exception:  # noqa: BLE001 (of any driver; the slower way names the error)
            with self.read() as rows:
                return rows.has_tokens()

    def token_of_hash(self, hashed: str) -> Token | None:
        """Return the token with this hash; it may be invalid."""
        return self._token(_OF_HASH, hashed=hashed)

    def token_of_sign_in(self, hashed: str, now: datetime) -> Token | None:
        """Return the token of a sign-in that has not ended; the token itself may be invalid by now."""
        return self._token(_OF_SIGN_IN, hashed=hashed, now=now)

    def _token(self, statement: Select[tuple[Token]], **values: object) -> Token | None:
        """Nearly every request asks for a token. Without a session of the ORM it takes a third of the
        time."""
        with translated_errors(), self._reading.connect() as connection:
            row = connection.execute(statement, values).first()
        return Token(**row._mapping) if row else None

    def check(self) -> None:
        """Raise `DatabaseUnavailable` if the database does not answer or cannot be written."""
        with self._writing, self._fresh_after_read_only(), self.engine.connect() as connection:
            if connection.get_execution_options().get("read_only"):
                connection.execute(select(Deployment.id))
                return
            connection.execute(
                update(Deployment).values(id=Deployment.id)
            )  # reading works on a read-only file
            connection.rollback()

    @contextmanager
    def _fresh_after_read_only(self) -> Iterator[None]:
        """SQLite opens a file that cannot be written as read-only, and that connection stays so. Drop the
        connections: the next ones can write again once the file can be written."""
        try:
            with translated_errors():
                yield
        except DatabaseReadOnly:
            self.engine.dispose()
            raise


@contextmanager
def translated_errors() -> Iterator[None]:
    try:
        yield
    except DataError as error:  # PostgreSQL, unlike SQLite, refuses long texts and NUL characters
        raise InvalidRequest(
            f"The database cannot store a value of this request ({cause(error)})."
        ) from error
    except SQLAlchemyError as error:
        if any(words in cause(error) for words in ("readonly database", "unable to open database file")):
            raise DatabaseReadOnly(
                "The session database cannot be opened for writing: see whether its disk is mounted, or "
                "mounted read-only, and who owns the file and its directory."
            ) from error
        if _is_disk_full(error):
            raise DiskFull(
                "The disk of the session database is full: free some space. Nothing was changed."
            ) from error
        if "disk I/O error" in cause(error):  # SQLite says this of some full disks, too
            raise DiskFull(
                "The disk of the session database is full, or it fails: free some space, and see dmesg. "
                "Nothing was changed."
            ) from error
        if is_damaged(error):
            raise DatabaseUnavailable(
                f"The session database is damaged ({cause(error)}): stop the gateway and put a backup back "
                "with `gateway restore FILE`."
            ) from error
        raise DatabaseUnavailable(
            f"The session database did not answer ({cause(error)}): try again shortly."
        ) from error


def cause(error: SQLAlchemyError) -> str:
    """Return the driver's message as one line."""
    if not isinstance(error, DBAPIError):
        return type(error).__name__
    return postgresql.cause(error.orig) if hasattr(error.orig, "diag") else str(error.orig)


def is_damaged(error: SQLAlchemyError) -> bool:
    """Whether SQLite cannot understand its file."""
    return any(words in cause(error) for words in ("disk image is malformed", "file is not a database"))


def _is_disk_full(error: SQLAlchemyError) -> bool:
    if isinstance(error, DBAPIError) and hasattr(error.orig, "diag"):
        return postgresql.is_disk_full(error.orig)
    return "disk is full" in cause(error)
