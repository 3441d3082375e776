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
    live: Sequence[Session] = client.list("/sessions", "sessions")
    for session in live:
        if whose in (session["user_id"], session["session_id"]):
            return session
    whose = next(
        (each["session_id"] for each in client.list("/queue", "requests") if each["user_id"] == whose),
        whose,
    )
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
