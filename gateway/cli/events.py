"""`gateway events`: who did what, and to which session."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

import click

from gateway.cli.options import client_options
from gateway.cli.table import Table, colour
from gateway.client import Client

_LOOK_SECONDS = 1.0
_COLOURS = {
    "opened": "green",
    "closing": "yellow",
    "retry": "red",
    "problem": "red",
    "failed": "red",
    "denied": "red",
    "orphan-removed": "yellow",
}

_Event = dict[str, Any]


@click.command()
@client_options
@click.argument("session_id", required=False)
@click.option("--user", "user_id", help="of this user only")
@click.option("--since", help="from this time on, such as 2025-01-17T08:00:00Z")
@click.option("--limit", type=int, help="how many of the latest [100]")
@click.option("--follow", is_flag=True, help="go on with those to come, until interrupted")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line, for scripts")
def events(client: Client, session_id: str | None, follow: bool, as_json: bool, **narrowed: Any) -> None:
    """Show who did what: to one session from its beginning, or the latest of all, newest last."""
    if session_id and any(value is not None for value in narrowed.values()):
        raise click.UsageError("SESSION_ID shows all of one session; leave it out to narrow what is shown.")
    table = None if as_json else _EventTable()
    with suppress(KeyboardInterrupt):
        for batch in _batches(client, session_id, narrowed, follow):
            for line in table.lines(batch) if table else map(json.dumps, batch):
                click.echo(line, color=colour())


def _batches(
    client: Client, session_id: str | None, narrowed: dict[str, Any], follow: bool
) -> Iterator[Sequence[_Event]]:
    """What there is, then, with `follow`, what has come since, as it comes."""
    path = f"/sessions/{quote(session_id, safe='')}/events" if session_id else "/events"
    asked = {name: value for name, value in narrowed.items() if value is not None}
    last = 0
    while True:
        found = client.ask("GET", f"{path}?{urlencode(asked)}" if asked else path)["events"]
        new = [event for event in found if event["id"] > last]
        if new or not last:
            yield new
        if not follow:
            return
        last = max((event["id"] for event in new), default=last)
        if not session_id:
            asked["after"] = last
        time.sleep(_LOOK_SECONDS)


class _EventTable:
    def __init__(self) -> None:
        self._table = Table(["TIME (UTC)", "ACTOR", "WHAT", "USER", "SESSION", "DETAIL"])
        self._headed = True

    def lines(self, events: Sequence[_Event]) -> Iterator[str]:
        colours = [_COLOURS.get(event["what"]) for event in events]
        yield from self._table.lines(map(_row, events), colours, self._headed)
        self._headed = False


def _row(event: _Event) -> list[str]:
    at = event["at"].replace("T", " ").rstrip("Z")
    who = [event["user_id"] or "-", event["session_id"] or "-"]
    return [at, event["actor"], event["what"], *who, event["detail"]]
