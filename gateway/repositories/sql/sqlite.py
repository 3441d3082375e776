"""SQLite: connections that lose nothing, and copies of the file while it is served."""

import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event

from gateway.errors import DiskFull, StartRefused

_BUSY_TIMEOUT_MS = 5000
_CONNECTIONS_KEPT = 32  # opening one takes longer than most of what is asked of it


def make_engine(path: Path) -> Engine:
    """WAL with FULL sync, and every transaction IMMEDIATE.

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
        if not connection.get_execution_options().get("read_only"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def make_read_only_engine(path: Path) -> Engine:
    """One that changes nothing: it makes no file, not even the index of the write-ahead log, and leaves a
    log as a dead process left it. Where there is no such log, nobody has the database open."""
    how = "readonly_shm" if path.with_name(path.name + "-wal").exists() else "immutable"
    query = {"uri": "true", "mode": "ro", how: "1"}
    return create_engine(
        URL.create("sqlite", database=f"file:{quote(str(path))}", query=query), hide_parameters=True
    )


def back_up(path: Path, copy: Path) -> None:
    """Make `copy`, consistent though the database is written to meanwhile; its owner's alone.

    Raises `StartRefused` when that cannot be done, with no half of a copy left.
    """
    if not path.exists():
        raise StartRefused(f"The database {path} does not exist.")
    try:
        os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise StartRefused(f"{copy} exists already; name another file.") from None
    except OSError as error:
        raise StartRefused(f"{copy} cannot be written ({error.strerror}).") from error
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    try:
        source.backup(target)
    except sqlite3.Error as error:
        copy.unlink()
        if "disk is full" in str(error):
            raise DiskFull(f"There is no room for {copy}; free some space, or name another disk.") from error
        raise StartRefused(f"{path} cannot be copied ({error}).") from error
    finally:
        source.close()
        target.close()
