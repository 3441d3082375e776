"""The database's schema: its version, and the migration to the version that this code needs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from gateway.database_url import DatabaseUrl
from gateway.errors import StartRefused
from gateway.repositories.lock import locked
from gateway.repositories.sql import sqlite
from gateway.repositories.sql.database import cause, is_damaged, make_engine, make_read_only_engine

_MIGRATION_SECONDS = 300.0  # that another process may take for it
_MIGRATIONS = Path(__file__).parents[2] / "migrations"


def require_current(db: DatabaseUrl) -> None:
    """Raise `StartRefused`, with the command that helps, if `db` does not have the current schema."""
    found = _revision(db)
    if found == _head():
        return
    absent = db.path is not None and not db.path.exists()
    state = "does not exist" if absent else "is empty" if found is None else f"has schema {found}"
    raise StartRefused(
        f"The database {db} {state}, but this version needs {_head()}: run `gateway migrate --db {db}` first."
    )


def exists(db: DatabaseUrl) -> bool:
    """Whether the database has a schema of any version; raises `StartRefused` when it cannot be asked."""
    return _revision(db) is not None


def upgrade(db: DatabaseUrl) -> Path | None:
    """Bring the database to the current schema and return the backup made before, if any.

    One process migrates at a time. There is a backup only of an SQLite database that had a schema; PostgreSQL
    rolls back a failed migration.
    """
    if db.path is None:
        _migrate(db)
        return None
    db.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = db.path.with_name(db.path.name + ".migrate.lock")
    with locked(lock, "migrate the database", _MIGRATION_SECONDS, StartRefused):
        found = _revision(db)
        if found == _head():
            return None
        copy = db.path.with_name(f"{db.path.name}.{found}.{datetime.now(UTC):%Y%m%dT%H%M%S}.backup")
        if found:
            sqlite.back_up(db.path, copy)
        os.close(os.open(db.path, os.O_WRONLY | os.O_CREAT, 0o600))
        os.chmod(db.path, 0o600)  # it holds the router's private keys to the sessions
        _migrate(db)
        return copy if found else None


def _migrate(db: DatabaseUrl) -> None:
    config = alembic_config()
    with _connection(db) as connection:
        if db.path is None:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StartRefused(
                f"This version cannot migrate the database {db} ({error}). If a later version wrote it, "
                "install that version."
            ) from error


@contextmanager
def _connection(db: DatabaseUrl) -> Iterator[Connection]:
    """Open a connection in a transaction.

    Afterwards close it, so that SQLite's file is complete without its log.
    """
    engine = make_engine(db)
    try:
        with _translated_errors(db), engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _translated_errors(db: DatabaseUrl) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        advice = "" if db.path else ": check that the server runs and that --db (GATEWAY_DB) is right"
        if is_damaged(error):
            advice = ": it is damaged, so put a backup back with `gateway restore FILE`"
        raise StartRefused(f"The database {db} cannot be used ({cause(error)}){advice}.") from error


def _revision(db: DatabaseUrl) -> str | None:
    """Return the revision of the database, None if it has none. Changes nothing."""
    if db.path is not None and not db.path.exists():
        return None
    engine = make_read_only_engine(db)
    try:
        with _translated_errors(db), engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()


def alembic_config() -> Config:
    """Return Alembic's configuration, with the path of the migrations."""
    return Config(_MIGRATIONS / "alembic.ini")


def _head() -> str:
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert head is not None, "migrations/versions is empty"
    return head
