"""`gateway why` and `gateway keep`: whether a session is used, and when it ends otherwise."""

from datetime import UTC, datetime, timedelta

import click

from gateway.cli.durations import Duration, minutes
from gateway.cli.lookup import find, whose_argument
from gateway.cli.options import as_json_option, client_options
from gateway.cli.output import print_json, print_lines
from gateway.cli.table import Table, printable
from gateway.client import Client
from gateway.domain.activity import State
from gateway.domain.activity_words import ActivityInWords
from gateway.domain.words import Words

_COLOURS = {State.ACTIVE: "green", State.UNKNOWN: "yellow", State.IDLE: None}


@click.command()
@client_options
@whose_argument
@as_json_option
def why(client: Client, whose: str, as_json: bool) -> None:
    """Show whether a session is used, and when it ends if not."""
    session = find(client, whose)
    found = client.ask("GET", f"/sessions/{session['session_id']}/activity")
    if as_json:
        print_json(found)
        return
    words = ActivityInWords(found, Words())
    click.echo(words.headline(datetime.now(UTC)))
    rows = [[signal.name, signal.state, printable(signal.detail)] for signal in words.signals]
    colours = [_COLOURS[signal.state] for signal in words.signals]
    print_lines(Table(["SIGNAL", "STATE", "DETAIL"]).lines(rows, colours) if rows else ())
    click.echo(words.lease())


@click.command()
@client_options
@whose_argument
@click.argument("by", type=Duration(), metavar="DURATION")
def keep(client: Client, whose: str, by: timedelta) -> None:
    """Keep a session for DURATION, even if nobody uses it."""
    session = find(client, whose)
    body = {"minutes": minutes(by)}
    found = client.ask("POST", f"/sessions/{session['session_id']}/keep", body)
    click.echo(f"{session['user_id']}: {ActivityInWords(found, Words()).kept()}")
