"""`gateway events`: the audit log."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlencode

import click

from gateway.cli.options import client_options
from gateway.cli.output import print_lines
from gateway.cli.table import Table
from gateway.client import Client

_POLL_SECONDS = 1.0
_MOST = 1000  # events in one response
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
@click.option("--user", "user_id", help="Show only events of this user.")
@click.option("--since", help="Begin at this time: 2025-01-17T08:00:00Z.")
@click.option("--limit", type=int, help="Show this many of the latest events [100].")
@click.option("--follow", is_flag=True, help="Wait for further events until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as a line of JSON, for scripts.")
def events(client: Client, session_id: str | None, follow: bool, as_json: bool, **filters: Any) -> None:
    """Show who did what: to one session, or the latest events.

    With SESSION_ID shows all events of that session, oldest first; otherwise the latest events, newest last.
    """
    if session_id and any(value is not None for value in filters.values()):
        raise click.UsageError("SESSION_ID shows all events of one session: leave it out to use a filter.")
    table = None if as_json else _EventTable()
    with suppress(KeyboardInterrupt):
        for batch in _batches(client, session_id, filters, follow):
            print_lines(table.lines(batch) if table else map(json.dumps, batch))


def _batches(
    client: Client, session_id: str | None, filters: dict[str, Any], follow: bool
) -> Iterator[Sequence[_Event]]:
    """Return the existing events, then, with `follow`, the new ones as they arrive."""
    path = f"/sessions/{quote(session_id, safe='')}/events" if session_id else "/events"
    query = {name: value for name, value in filters.items() if value is not None}
    last = 0
    while True:
        found = client.ask("GET", f"{path}?{urlencode(query)}" if query else path)["events"]
        new = [event for event in found if event["id"] > last]
        if new or not last:
            yield new
        if not follow:
            return
        last = max((event["id"] for event in new), default=last)
        if not session_id:
            query |= {"after": last, "limit": _MOST}
        if len(new) < _MOST:
            time.sleep(_POLL_SECONDS)


class _EventTable:
    def __init__(self) -> None:
        self._table = Table(["TIME (UTC)", "ACTOR", "WHAT", "USER", "SESSION", "DETAIL"])
        self._with_headings = True

    def lines(self, events: Sequence[_Event]) -> Iterator[str]:
        colours = [_COLOURS.get(event["what"]) for event in events]
        yield from self._table.lines(map(_row, events), colours, self._with_headings)
        self._with_headings = False


def _row(event: _Event) -> list[str]:
    at = event["at"].replace("T", " ").rstrip("Z")
    subject = [event["user_id"] or "-", event["session_id"] or "-"]
    return [at, event["actor"], event["what"], *subject, event["detail"]]
