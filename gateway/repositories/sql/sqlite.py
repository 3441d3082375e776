"""SQLite: durable connections, and consistent copies of a database in use."""

import os
import shutil
import sqlite3
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event

from gateway.errors import DatabaseUnavailable, DiskFull, StartRefused
from gateway.repositories.storage import sync_directory

_BUSY_TIMEOUT_MS = 5000
_POOL_SIZE = 32  # connections; opening one takes longer than most queries
_CACHE_KIB = 256  # of each connection; by default 2 MiB, which a change by another connection empties


def make_engine(path: Path) -> Engine:
    """Return an engine with WAL, FULL sync and IMMEDIATE transactions, except `read_only` ones. It creates no
    file.

    A deferred transaction that reads and then writes fails or loses updates under concurrency. The driver's
    implicit BEGIN is therefore off, and the engine sends its own.
    """
    # hide_parameters: an error in the log would otherwise quote private keys.
    engine = create_engine(f"sqlite:///{path}", pool_size=_POOL_SIZE, hide_parameters=True)
    file = _File(path)

    @event.listens_for(engine, "do_connect")
    def _require_file(*_arguments: Any) -> None:  # SQLite would make a new, empty file
        file.require_same()

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        file.remember()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("read_only"):
            connection.connection.cursor().execute("BEGIN")  # takes no lock, so it cannot fail
        else:
            file.require_same()
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


class _File:
    """The file of a database in use. SQLite keeps an open file that was removed or replaced, and all that is
    written into it is lost when the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: tuple[int, int] | None = None

    def remember(self) -> None:
        """Call this after each connection."""
        self._opened = self._opened or self._identity()

    def require_same(self) -> None:
        """Raises `DatabaseUnavailable` if there is another file at the path now, or none."""
        if self._opened is None and self._identity() is None:
            raise DatabaseUnavailable(
                f"The file {self._path.name} of the session database does not exist: see whether its disk is "
                "mounted."
            )
        if self._opened is not None and self._identity() != self._opened:
            raise DatabaseUnavailable(
                f"The file {self._path.name} of the session database was removed or replaced while the "
                "gateway uses it, so nothing is written: put that file back, or stop the gateway and put a "
                "backup back with `gateway restore FILE`."
            )

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def make_read_only_engine(path: Path) -> Engine:
    """Return an engine that changes nothing: it creates no file and keeps the log of a dead process."""
    engine = create_engine(f"sqlite:///{path}", creator=lambda: _read_only(path), hide_parameters=True)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:  # the driver begins no transaction that only reads
        connection.exec_driver_sql("BEGIN")

    return engine


def _read_only(path: Path) -> sqlite3.Connection:
    """Without a write-ahead log no process has the database open, so the file can be read as immutable."""
    how = "readonly_shm" if _log(path).exists() else "immutable"
    uri = f"file:{quote(str(path))}?mode=ro&{how}=1"
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
    try:
        connection.execute("PRAGMA schema_version")
    except sqlite3.OperationalError:
        connection.close()
        return _in_memory(path)
    return connection


def _in_memory(path: Path) -> sqlite3.Connection:
    """Read a database whose log needs a recovery, because its processes were killed. SQLite can only recover
    what it may write, so it recovers a copy."""
    memory = sqlite3.connect(":memory:", check_same_thread=False)
    with TemporaryDirectory() as directory:
        copy = Path(directory, path.name)
        with suppress(FileNotFoundError):  # first: what moves to the file meanwhile is in both
            shutil.copyfile(_log(path), _log(copy))
        shutil.copyfile(path, copy)
        recovered = sqlite3.connect(copy)
        try:
            recovered.backup(memory)
        finally:
            recovered.close()
    return memory


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def back_up(path: Path, copy: Path) -> None:
    """Copy the database at `path` to the new file `copy`, of mode 0600. The copy is consistent.

    Other processes may write to the database meanwhile. Raises `StartRefused` or `DiskFull` if the copy
    fails, and leaves no partial copy.
    """
    if not path.exists():
        raise StartRefused(f"The database {path} does not exist.")
    try:
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise StartRefused(f"{copy} exists already: give another file name.") from None
    except OSError as error:
        raise StartRefused(f"{copy} cannot be written ({error.strerror}).") from error
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    try:
        source.backup(target)
    except sqlite3.Error as error:
        copy.unlink()
        if "disk is full" in str(error):
            raise DiskFull(
                f"The disk is too full for {copy}: free some space, or use another disk."
            ) from error
        raise StartRefused(f"{path} cannot be copied ({error}).") from error
    finally:
        source.close()
        target.close()


def restore(path: Path, copy: Path) -> Path | None:
    """Put `copy` in the place of the database at `path`; where the database from before is kept now, if there
    was one.

    The write-ahead log of the old database goes with it: left behind, it would be applied to the copy. Raises
    `StartRefused` when the copy is damaged or a process has the database open; nothing is changed then.
    """
    require_sound(copy)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    incoming = path.with_name(path.name + ".restoring")
    incoming.unlink(missing_ok=True)
    back_up(copy, incoming)
    kept = None
    try:
        if path.exists():
            _require_unused(path)
            kept = path.with_name(f"{path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}.replaced")
            _keep(path, kept)
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        incoming.rename(path)
    finally:
        incoming.unlink(missing_ok=True)
    sync_directory(path.parent)
    return kept


def _keep(path: Path, kept: Path) -> None:
    """Copy the database to `kept`. If it is so damaged that SQLite cannot, move its file, and its log."""
    try:
        back_up(path, kept)
    except StartRefused:
        path.rename(kept)
        with suppress(FileNotFoundError):
            _log(path).rename(_log(kept))


def require_sound(copy: Path) -> None:
    """Raises `StartRefused` unless `copy` is a whole database of the gateway."""
    if not copy.is_file():
        raise StartRefused(f"{copy} is not a file; name a copy that `gateway backup` made.")
    connection = sqlite3.connect(f"file:{quote(str(copy))}?mode=ro", uri=True)
    try:
        [(verdict,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
        connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error as error:
        raise StartRefused(f"{copy} is not a database of the gateway ({error}).") from error
    finally:
        connection.close()
    if verdict != "ok":
        raise StartRefused(f"{copy} is damaged ({verdict}): choose another backup.")


def _require_unused(path: Path) -> None:
    """SQLite grants exclusive use only to the last process that has the database open."""
    connection = sqlite3.connect(path, timeout=1, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        raise StartRefused(
            f"The database {path} is in use ({error}): stop the gateway first, then restore."
        ) from error
    except sqlite3.DatabaseError:
        return  # it is damaged, and that may be why a copy is put in its place
    finally:
        connection.close()
