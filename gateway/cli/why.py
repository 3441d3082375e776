"""`gateway why` and `gateway keep`: whether a session is used, and when it ends otherwise."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from gateway.cli.durations import Duration, minutes
from gateway.cli.lookup import find, whose_argument
from gateway.cli.options import as_json_option, client_options
from gateway.cli.session_text import date, time
from gateway.cli.table import Table, colour, printable
from gateway.client import Client
from gateway.domain.durations import in_words

_COLOURS = {"active": "green", "unknown": "yellow", "idle": None}


@click.command()
@client_options
@whose_argument
@as_json_option
def why(client: Client, whose: str, as_json: bool) -> None:
    """Show whether a session is used, and when it ends if not."""
    session = find(client, whose)
    found = client.ask("GET", f"/sessions/{session['session_id']}/activity")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(_headline(found, datetime.now(UTC)))
    rows = [[signal["name"], signal["state"], printable(signal["detail"])] for signal in found["signals"]]
    colours = [_COLOURS[signal["state"]] for signal in found["signals"]]
    for line in Table(["SIGNAL", "STATE", "DETAIL"]).lines(rows, colours) if rows else ():
        click.echo(line, color=colour())
    click.echo(f"The lease ends at {date(session['expires_at'])}.")


@click.command()
@client_options
@whose_argument
@click.argument("by", type=Duration(), metavar="DURATION")
def keep(client: Client, whose: str, by: timedelta) -> None:
    """Keep a session for DURATION, even if nobody uses it."""
    session = find(client, whose)
    body = {"minutes": minutes(by)}
    found = client.ask("POST", f"/sessions/{session['session_id']}/keep", body)
    click.echo(f"{session['user_id']}: kept until {date(found['keep_until'])}, or until the lease ends.")


def _headline(found: Mapping[str, Any], now: datetime) -> str:
    if found["state"] == "off":
        return "Unused sessions of this user do not end: --idle-minutes is 0."
    if found["state"] == "unknown":
        return "UNKNOWN: the signals were not read yet."
    if found["state"] == "active":
        return "ACTIVE: not every signal is idle."
    idle = f"IDLE for {in_words(_whole_minutes(now - time(found['idle_since'])))}"
    if found["policy"] == "always":
        return f"{idle}; ends at {date(found['ends_at'])}, or 10 minutes after a warning."
    return f"{idle}; ends after {date(found['ends_at'])} if somebody then gets a session earlier."


def _whole_minutes(span: timedelta) -> timedelta:
    return max(timedelta(minutes=1), span // timedelta(minutes=1) * timedelta(minutes=1))
