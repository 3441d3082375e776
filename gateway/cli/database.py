"""`gateway migrate`, `backup` and `take-over`: work on the database, on the gateway's host."""

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from gateway.cli.options import settings_options
from gateway.database_url import DatabaseUrl
from gateway.errors import StartRefused
from gateway.settings import Settings

db_option = settings_options("db")


def database(db: str | None) -> DatabaseUrl:
    """Which one is meant: by the flag, else by the environment."""
    return Settings.load(os.environ, {"db": db}).db


@click.command()
@db_option
def migrate(db: str | None) -> None:
    """Bring the database to this version's schema; of SQLite's a backup copy is kept."""
    from gateway.repositories.sql import schema

    meant = database(db)
    copy = schema.upgrade(meant)
    click.echo(f"{meant} is current" + (f"; the copy from before is {copy}" if copy else ""))


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
