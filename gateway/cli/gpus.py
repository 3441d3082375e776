"""`gateway gpus`: the GPUs and their sessions, and cordons."""

from datetime import UTC, datetime
from urllib.parse import quote, urlencode

import click

from gateway.cli import slice_map
from gateway.cli.durations import TimeOfDay
from gateway.cli.options import client_options, subcommand
from gateway.cli.output import print_json, print_lines
from gateway.client import Client


@click.group(invoke_without_command=True)
@client_options
@click.option("--json", "as_json", is_flag=True, help="Print the response of GET /gpus, for scripts.")
@click.option("--node", metavar="NAME", help="Show the GPUs of this node of a cluster.")
@click.pass_context
def gpus(context: click.Context, client: Client, as_json: bool, node: str | None) -> None:
    """Show the sessions and the free capacity of each GPU."""
    context.obj = client
    if context.invoked_subcommand:
        return
    response = client.ask("GET", "/gpus" + (f"?{urlencode({'node': node})}" if node else ""))
    if as_json:
        print_json(response)
    else:
        print_lines([slice_map.draw(response["gpus"], datetime.now(UTC))])


@gpus.command()
@click.argument("gpu", metavar="GPU")
@click.option("--reason", default="", help="Show this reason to everyone who lists the GPUs.")
@click.option("--from", "begin", type=TimeOfDay(), metavar="TIME", help="Begin at this time, such as 18:00.")
@subcommand
def cordon(client: Client, gpu: str, reason: str, begin: datetime | None) -> None:
    """Keep new sessions off the GPU.

    GPU is what `gateway gpus` shows, INDEX or NODE/INDEX of a cluster, or the UUID.

    Until the time of --from, sessions that end before it still start there, and no lease is extended beyond
    it.
    """
    body: dict[str, str] = {"reason": reason}
    if begin is not None:
        body["from"] = begin.astimezone(UTC).isoformat()
    client.ask("PUT", f"/gpus/{quote(gpu)}/cordon", body)


@gpus.command()
@click.argument("gpu", metavar="GPU")
@subcommand
def uncordon(client: Client, gpu: str) -> None:
    """Allow new sessions on the GPU again."""
    client.ask("DELETE", f"/gpus/{quote(gpu)}/cordon")
