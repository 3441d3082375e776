"""The database's schema: which version it has, and how it is brought to the one this code needs."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from gateway.errors import StartRefused
from gateway.repositories.database import make_engine

_MIGRATIONS = Path(__file__).parents[2] / "migrations"


def require_current(path: Path) -> None:
    """Raises `StartRefused`, naming the command that helps, when `path` does not have the current schema."""
    found = _revision(path)
    if found == _head():
        return
    state = "does not exist" if not path.exists() else "is empty" if found is None else f"has schema {found}"
    raise StartRefused(
        f"The database {path} {state}, this version needs {_head()}: run `gateway migrate --db {path}` first."
    )


def upgrade(path: Path) -> Path | None:
    """Bring the database to the current schema, one process at a time; the copy made before, if any."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".migrate.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = _revision(path)
        if found == _head():
            return None
        backup = back_up(path, found) if found else None
        with _connection(path) as connection:
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        os.chmod(path, 0o600)  # holds the keys that open the sessions' sshd to the router
        return backup


def back_up(path: Path, revision: str) -> Path:
    """A consistent copy beside the database, even while it is served; its owner's alone."""
    backup = path.with_name(f"{path.name}.{revision}.{datetime.now(UTC):%Y%m%dT%H%M%S}.backup")
    backup.touch(mode=0o600)
    source, target = sqlite3.connect(path), sqlite3.connect(backup)
    try:
        source.backup(target)
    finally:
        source.close()
        target.close()
    return backup


@contextmanager
def _connection(path: Path) -> Iterator[Connection]:
    """Closed for good afterwards, so that the file is whole without its write-ahead log."""
    engine = make_engine(path)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def _revision(path: Path) -> str | None:
    if not path.exists():
        return None
    with _connection(path) as connection:
        return MigrationContext.configure(connection).get_current_revision()


def alembic_config() -> Config:
    """Where the migrations are."""
    return Config(_MIGRATIONS / "alembic.ini")


def _head() -> str:
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None, "migrations/versions is empty"
    return head
