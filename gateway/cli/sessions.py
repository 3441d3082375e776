"""`gateway sessions`, `show`, `extend` and `end`: live sessions, from the command line."""

import sys
from datetime import datetime, timedelta

import click

from gateway.cli.durations import Duration, TimeOfDay, minutes
from gateway.cli.lookup import find, whose_argument
from gateway.cli.options import as_json_option, client_options
from gateway.cli.output import print_json, print_lines
from gateway.cli.progress import progress
from gateway.cli.session_text import (
    Session,
    date,
    facts,
    gpu_labels,
    left,
    row,
    time,
    waiting_row,
)
from gateway.cli.table import Table, printable
from gateway.client import Client
from gateway.domain.durations import in_words
from gateway.errors import GatewayError

_COLOURS = {"active": None, "pending": "cyan", "closing": "red", "waiting": "yellow"}


@click.command()
@client_options
@as_json_option
def sessions(client: Client, as_json: bool) -> None:
    """List the live sessions with their users and leases."""
    if as_json:
        print_json({"sessions": client.list("/sessions", "sessions")})
        return
    # The line comes first: a request whose session opens in between is in both, and listed once.
    requests, found = client.list("/queue", "requests"), client.list("/sessions", "sessions")
    gpus, live = gpu_labels(client), {session["session_id"] for session in found}
    waiting = [each for each in requests if each["user_id"] and each["session_id"] not in live]
    table = Table(["USER", "PROFILE", "GPU", "STATE", "LEFT", "MAY EXTEND TO"])
    rows = [*(row(session, gpus) for session in found), *map(waiting_row, waiting)]
    colours = [*(_COLOURS[session["status"]] for session in found), *(_COLOURS["waiting"] for _ in waiting)]
    print_lines(table.lines(rows, colours))


@click.command()
@client_options
@whose_argument
@as_json_option
def show(client: Client, whose: str, as_json: bool) -> None:
    """Show a live session, by the name of its user or by its id."""
    session = find(client, whose)
    if as_json:
        print_json(session)
        return
    click.echo(f"{session['user_id']}, session {session['session_id']}")
    for label, text in facts(session, gpu_labels(client)).items():
        click.echo(f"  {label:<11}{printable(text)}")


@click.command()
@client_options
@whose_argument
@click.argument("by", type=Duration(), metavar="[DURATION]", required=False)
@click.option("--until", type=TimeOfDay(), metavar="TIME", help="Extend to this time, such as 18:00.")
@click.option("--max", "as_far_as_possible", is_flag=True, help="Extend as far as the limit allows.")
@click.option("--override", is_flag=True, help="Go beyond the limit of a lease.")
@as_json_option
def extend(
    client: Client,
    whose: str,
    by: timedelta | None,
    until: datetime | None,
    as_far_as_possible: bool,
    override: bool,
    as_json: bool,
) -> None:
    """Extend a lease by DURATION, such as 90m, 2h or 1d."""
    if [by is not None, until is not None, as_far_as_possible].count(True) != 1:
        raise click.UsageError("Give a DURATION, or --until, or --max.")
    before = find(client, whose)
    if before["status"] == "waiting":
        raise GatewayError(
            f"{before['user_id']} waits in line and has no lease yet: there is nothing to extend."
        )
    body = {"minutes": _minutes(before, by, until), "ends": before["expires_at"], "override": override}
    session = client.ask("POST", f"/sessions/{before['session_id']}/extend", body)
    if as_json:
        print_json(session)
        return
    added = time(session["expires_at"]) - time(before["expires_at"])
    click.echo(f"{session['user_id']}: until {date(session['expires_at'])}, {in_words(added)} more.")


@click.command()
@client_options
@whose_argument
@click.option("--yes", is_flag=True, help="End the session without confirmation.")
@click.option("--note", default="", metavar="TEXT", help="Tell the user why, such as 'driver update'.")
def end(client: Client, whose: str, yes: bool, note: str) -> None:
    """End a session; the workspace of its user is kept."""
    session = find(client, whose)
    user = session["user_id"]
    if not yes:
        _confirm_end(session)
    if session["status"] == "waiting":
        client.ask("DELETE", f"/sessions/{session['session_id']}", {"note": note})
        click.echo(f"{user} waits in line no more.")
        return
    with progress(f"Ending the session of {user}"):
        closing = client.ask("DELETE", f"/sessions/{session['session_id']}", {"note": note})
    if closing is None:
        click.echo(f"The session of {user} has ended.")
    else:
        click.echo(f"The session of {user} is closing; a step is repeated: {printable(closing['problem'])}")


def _minutes(session: Session, by: timedelta | None, until: datetime | None) -> int | str:
    if by is not None:
        return minutes(by)
    if until is None:
        return "max"
    more = until - time(session["expires_at"])
    if more <= timedelta():
        raise GatewayError(f"The lease ends at {date(session['expires_at'])} already: give a later time.")
    return minutes(more)


def _confirm_end(session: Session) -> None:
    if not sys.stdin.isatty():
        raise click.UsageError("There is no terminal to ask on: give --yes to end the session.")
    if session["status"] == "waiting":
        click.confirm(f"Give up the place in line of {session['user_id']}?", abort=True)
        return
    description = f"the {session['mig_profile']} session of {session['user_id']}, {left(session)} left"
    click.confirm(f"End {description}? What runs in it is killed", abort=True)
