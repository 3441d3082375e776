"""`gateway migrate`, `backup`, `restore` and `take-over`: work on the database, on the gateway's host."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli.options import settings_options
from gateway.database_url import DatabaseUrl
from gateway.errors import StartRefused
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.services.recovery import Recovered, Recovery

db_option = settings_options("db")


def database(db: str | None) -> DatabaseUrl:
    """Which one is meant: by the flag, else by the environment."""
    return Settings.load(os.environ, {"db": db}).db


@click.command()
@click.option("--new", is_flag=True, help="Begin with an empty database beside sessions or workspaces.")
@db_option
def migrate(db: str | None, new: bool) -> None:
    """Bring the database to this version's schema."""
    from gateway.repositories.sql import schema

    settings = Settings.load(os.environ, {"db": db})
    is_first = not schema.exists(settings.db)
    if is_first and not new:
        _recovery(settings).require_nothing()
    copy = schema.upgrade(settings.db)
    click.echo(f"{settings.db} is current" + (f"; the copy from before is {copy}" if copy else ""))
    if is_first and new:
        _report(_recovery(settings).recover())


def _recovery(settings: Settings) -> "Recovery":
    from gateway.app import parts_of_this_machine
    from gateway.services.recovery import Recovery

    parts = parts_of_this_machine(settings)
    return Recovery(parts.database, parts.host, parts.pipes, parts.clock)


def _report(recovered: "Recovered") -> None:
    for sentence, names in (
        ("uid taken from the workspace", recovered.owners),
        ("session found running and recorded again", recovered.adopted),
        ("session without a record, ends at the next start", recovered.lost),
        ("session ended since the backup", recovered.ended),
        ("conflict", recovered.conflicts),
    ):
        for name in names:
            click.echo(f"{sentence}: {name}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@db_option
def restore(file: Path, db: str | None) -> None:
    """Put a backup of the SQLite database back."""
    from gateway.repositories.sql import schema, sqlite

    settings = Settings.load(os.environ, {"db": db})
    if settings.db.path is None:
        raise StartRefused("PostgreSQL has its own command: pg_restore --clean --dbname=URL FILE")
    kept = sqlite.restore(settings.db.path, file)
    schema.upgrade(settings.db)
    click.echo(f"{settings.db} is restored" + (f"; the database from before is {kept}" if kept else ""))
    _report(_recovery(settings).recover())


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@db_option
def backup(file: Path | None, db: str | None) -> None:
    """Copy the SQLite database to FILE, consistent while it is served, and print where it is."""
    from gateway.repositories.sql import sqlite

    meant = database(db)
    if meant.path is None:
        raise StartRefused(f"PostgreSQL has its own: pg_dump --format=custom --file=sessions.dump '{meant}'")
    copy = file or meant.path.with_name(f"{meant.path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}.backup")
    sqlite.back_up(meant.path, copy)
    click.echo(copy)


@click.command()
@db_option
def take_over(db: str | None) -> None:
    """Move a PostgreSQL database here: its sessions are those of this machine from now on."""
    from gateway.repositories.docker.client import Docker
    from gateway.repositories.sql import owner, schema

    meant = database(db)
    schema.require_current(meant)
    owner.take_over(meant, Docker().engine_id)
    click.echo(f"{meant} is this machine's")
