"""Finds the session that an argument names: by the name of its user, or by its id."""

from collections.abc import Sequence
from urllib.parse import quote

import click

from gateway.cli.completion import complete_user
from gateway.cli.session_text import Session
from gateway.client import Client, Refused
from gateway.errors import GatewayError

whose_argument = click.argument("whose", metavar="USER|ID", shell_complete=complete_user)


def find(client: Client, whose: str) -> Session:
    """The live session of a user, the user's request in line, or the session with this id. Raises
    `GatewayError`."""
    if live := _live(client, whose):
        return live
    if waiting := _matching(client.list("/queue", "requests"), whose):
        return _read(client, waiting["session_id"])
    # A session that opened after the first question is not in line any more.
    return _live(client, whose) or _read(client, whose)


def _live(client: Client, whose: str) -> Session | None:
    return _matching(client.list("/sessions", "sessions"), whose)


def _matching(found: Sequence[Session], whose: str) -> Session | None:
    return next((each for each in found if whose in (each["user_id"], each["session_id"])), None)


def _read(client: Client, whose: str) -> Session:
    try:
        found: Session = client.ask("GET", f"/sessions/{quote(whose, safe='')}")
    except Refused as refusal:
        if refusal.status != 404:
            raise
        raise GatewayError(
            f"{whose!r} has no live session, and is not the id of one. `gateway sessions` lists them, "
            "`gateway events --user USER` shows what became of the last one."
        ) from None
    return found
