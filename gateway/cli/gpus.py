"""`gateway gpus`: what is on the GPUs, and keeping new sessions off one."""

import json
from datetime import UTC, datetime

import click

from gateway.cli import slice_map
from gateway.cli.options import client_options
from gateway.cli.table import colour
from gateway.client import Client


@click.group(invoke_without_command=True)
@client_options
@click.option("--json", "as_json", is_flag=True, help="as GET /gpus answers, for scripts")
@click.pass_context
def gpus(context: click.Context, client: Client, as_json: bool) -> None:
    """Show what is on each GPU: who, which profile, until when, and what is free."""
    context.obj = client
    if context.invoked_subcommand:
        return
    answer = client.ask("GET", "/gpus")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        click.echo(slice_map.draw(answer["gpus"], datetime.now(UTC)), color=colour())


@gpus.command()
@click.argument("index", type=click.IntRange(0))
@click.option("--reason", default="", help="what others are told")
@click.pass_obj
def cordon(client: Client, index: int, reason: str) -> None:
    """Keep new sessions off GPU INDEX; those on it stay."""
    client.ask("PUT", f"/gpus/{index}/cordon", {"reason": reason})


@gpus.command()
@click.argument("index", type=click.IntRange(0))
@click.pass_obj
def uncordon(client: Client, index: int) -> None:
    """Let new sessions onto GPU INDEX again."""
    client.ask("DELETE", f"/gpus/{index}/cordon")
