"""`gateway migrate`, `backup`, `restore`, `recover` and `take-over`.

Commands for the database, on the gateway's host.
"""

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
    """Return the database of the flag, else of the environment, else the default one."""
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
    backup_path = schema.upgrade(settings.db)
    click.echo(
        f"{settings.db} is current" + (f"; the backup from before is {backup_path}" if backup_path else "")
    )
    if is_first and new:
        _report(_recovery(settings).recover())


def _recovery(settings: Settings) -> "Recovery":
    from gateway.app import parts_of, recovery_of

    return recovery_of(settings, parts_of(settings))


def _report(recovered: "Recovered") -> None:
    for heading, names in (
        ("uid read from the workspace", recovered.owners),
        ("running session recorded again", recovered.adopted),
        ("session without a record, which ends soon after the next start", recovered.lost),
        ("session that ended after the backup", recovered.ended),
        ("conflict", recovered.conflicts),
    ):
        for name in names:
            click.echo(f"{heading}: {name}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@db_option
def restore(file: Path, db: str | None) -> None:
    """Restore the SQLite database from the backup FILE."""
    from gateway.repositories.sql import schema, sqlite

    settings = Settings.load(os.environ, {"db": db})
    if settings.db.path is None:
        raise StartRefused(
            "Restore a PostgreSQL database with: pg_restore --clean --dbname=URL FILE; then run `gateway "
            "recover`."
        )
    previous = sqlite.restore(settings.db.path, file)
    schema.upgrade(settings.db)
    click.echo(
        f"{settings.db} is restored" + (f"; the database from before is {previous}" if previous else "")
    )
    _report(_recovery(settings).recover())


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@db_option
def backup(file: Path | None, db: str | None) -> None:
    """Copy the SQLite database to FILE while the gateway runs.

    Prints the path of the copy, which is consistent. Without FILE the copy is beside the database.
    """
    from gateway.repositories.sql import sqlite

    source = database(db)
    if source.path is None:
        dump = f"pg_dump --format=custom --file=sessions.dump '{source}'"
        raise StartRefused(f"Back up a PostgreSQL database with: {dump}")
    copy = file or source.path.with_name(f"{source.path.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}.backup")
    sqlite.back_up(source.path, copy)
    click.echo(copy)


@click.command()
@db_option
def recover(db: str | None) -> None:
    """Make a database that was put back agree with the host.

    Stop the gateway first. Sessions that were opened since the backup get their records again. Those that
    cannot get one end soon after the next start. `gateway restore` does the same for an SQLite database.
    """
    from gateway.app import leadership_of, require_own_database

    settings = Settings.load(os.environ, {"db": db})
    require_own_database(settings)
    if leader := leadership_of(settings).leader():
        raise StartRefused(f"A gateway still uses the database {settings.db} ({leader}): stop it first.")
    _report(_recovery(settings).recover())


@click.command()
@db_option
def take_over(db: str | None) -> None:
    """Make this machine the owner of a PostgreSQL database.

    Stop the gateway on the other machine first. The sessions in the database then belong to this machine, or
    to the cluster of --site kubernetes.
    """
    from gateway.app import machine_id
    from gateway.repositories.sql import owner, schema

    settings = Settings.load(os.environ, {"db": db})
    schema.require_current(settings.db)
    owner.take_over(settings.db, machine_id(settings))
    click.echo(f"This {'cluster' if settings.is_cluster else 'machine'} now owns {settings.db}.")
