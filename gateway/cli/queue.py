"""`gateway queue`: the waiting line, and priorities in it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import click

from gateway.cli.lookup import find, whose_argument
from gateway.cli.options import as_json_option, client_options, subcommand
from gateway.cli.output import print_json, print_lines
from gateway.cli.session_text import time
from gateway.cli.table import Table
from gateway.client import Client
from gateway.domain.words import Words, ordinal

_HIDDEN = "somebody"  # the other users' names are for operators


@click.group(invoke_without_command=True)
@client_options
@as_json_option
@click.pass_context
def queue(context: click.Context, client: Client, as_json: bool) -> None:
    """List the requests that wait for a session."""
    context.obj = client
    if context.invoked_subcommand:
        return
    requests = client.list("/queue", "requests")
    if as_json:
        print_json({"requests": requests})
        return
    rows = [_row(request) for request in requests]
    headings = ["PLACE", "USER", "PROFILE", "PRIORITY", "PROMISED BY", "GIVES UP", "ID"]
    print_lines(Table(headings).lines(rows))


@queue.command()
@whose_argument
@click.option("--priority", type=click.INT, required=True, help="Serve it before those of a lower priority.")
@subcommand
def move(client: Client, whose: str, priority: int) -> None:
    """Set the priority of a waiting request; 0 is that of a new one."""
    session_id = find(client, whose)["session_id"]
    request = client.ask("PUT", f"/queue/{session_id}", {"priority": priority})
    click.echo(f"{request['user_id']} is {ordinal(request['position'])} in line, {promise(request)}.")


def promise(request: Mapping[str, Any]) -> str:
    """`by 14:20 KST`, or that nothing is promised."""
    if request["promised_at"] is None:
        return "nothing promised"
    return f"by {Words().time(time(request['promised_at']), datetime.now(UTC))}"


def _row(request: Mapping[str, Any]) -> list[str]:
    return [
        ordinal(request["position"]),
        request["user_id"] or _HIDDEN,
        request["mig_profile"],
        str(request["priority"]),
        promise(request).removeprefix("by "),
        Words().time(time(request["wait_until"]), datetime.now(UTC)),
        request["session_id"] or "-",
    ]
