"""`gateway token`: API tokens. Like `gateway migrate`, the commands use the database on this host."""

import os
from datetime import datetime

import click

from gateway.cli.database import database, db_option
from gateway.cli.durations import Expiry
from gateway.cli.output import print_lines
from gateway.cli.table import Row, Table
from gateway.domain import clock
from gateway.domain.audit import acting
from gateway.domain.models import Token
from gateway.domain.permissions import TOKEN_ROLES, Role
from gateway.services.tokens import Tokens

_ROLES = [role.value for role in TOKEN_ROLES]


def _tokens(db: str | None) -> Tokens:
    from gateway.repositories.sql import schema
    from gateway.repositories.sql.database import SqlDatabase

    source = database(db)
    schema.require_current(source)
    return Tokens(SqlDatabase(source), clock.read)


@click.group()
@click.pass_context
def token(context: click.Context) -> None:
    """Create, list and revoke API tokens on the gateway's host."""
    name = os.environ.get("SUDO_USER") or os.environ.get("USER") or os.getuid()
    context.with_resource(acting(f"{name}@shell"[:80]))


@token.command()
@click.argument("name")
@click.option("--role", type=click.Choice(_ROLES), required=True, help="Give the token this role.")
@click.option("--user", default=None, help="A token of role user is for this user.")
@click.option(
    "--expires",
    type=Expiry(),
    default=None,
    metavar="TIME",
    help="Expire after 30d, or on 2026-12-31 [never].",
)
@db_option
def create(name: str, role: str, user: str | None, expires: datetime | None, db: str | None) -> None:
    """Create the token NAME and print it once.

    The database keeps only its hash, so the token cannot be shown again.
    """
    click.echo(_tokens(db).create(name, Role(role), user, expires))


@token.command("list")
@db_option
def list_all(db: str | None) -> None:
    """List all tokens, oldest first."""
    rows = [_row(made) for made in _tokens(db).list()]
    print_lines(Table(["NAME", "ROLE", "USER", "EXPIRES", "LAST USE", "STATE"]).lines(rows))


@token.command()
@click.argument("name")
@db_option
def revoke(name: str, db: str | None) -> None:
    """Revoke the token NAME at once."""
    _tokens(db).revoke(name)


def _row(made: Token) -> Row:
    state = "revoked" if made.revoked_at else "valid" if made.is_valid(clock.read().wall) else "expired"
    return [made.name, made.role, made.user_id or "-", _time(made.expires_at), _time(made.used_at), state]


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%dT%H:%MZ}" if at else "never"
