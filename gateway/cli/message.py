"""`gateway message`: a text for the users of live sessions."""

from typing import Any

import click

from gateway.cli.lookup import find
from gateway.cli.options import client_options
from gateway.client import Client, Refused
from gateway.domain.words import terminals

_GONE = 410


@click.command()
@client_options
@click.argument("words", metavar="[USER|ID] TEXT", nargs=-1, required=True)
@click.option("--all", "to_all", is_flag=True, help="Send it to every live session.")
@click.option("--clear", is_flag=True, help="Take the last message away; without TEXT.")
def message(client: Client, words: tuple[str, ...], to_all: bool, clear: bool) -> None:
    """Show TEXT on every terminal of a session, and at each login."""
    whose, texts = ("", words) if to_all else (words[0], words[1:])
    if bool(texts) == clear:
        raise click.UsageError("Give a TEXT, or --clear.")
    found = client.list("/sessions", "sessions") if to_all else [find(client, whose)]
    for session in found:
        click.echo(f"{session['user_id']}: {_send(client, session, ' '.join(texts))}")


def _send(client: Client, session: Any, text: str) -> str:
    try:
        answer = client.ask("POST", f"/sessions/{session['session_id']}/message", {"text": text})
    except Refused as refusal:
        if refusal.status != _GONE:
            raise
        return "the session has ended"
    return terminals(answer["terminals"]) if text else "taken away"
