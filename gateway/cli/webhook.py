"""`gateway webhook`: who gets which events."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from gateway.cli.options import as_json_option, client_options, subcommand
from gateway.cli.output import print_json, print_lines
from gateway.cli.table import Table
from gateway.client import Client
from gateway.domain.webhooks import EVERY, Format

_COLOURS = {"delivered": "green", "failed": "red", "waiting": "yellow"}


@click.group()
@client_options
@click.pass_context
def webhook(context: click.Context, client: Client) -> None:
    """Send events to other programs, such as Slack or your own."""
    context.obj = client


@webhook.command("set")
@click.argument("name")
@click.argument("url")
@click.option("--events", default=EVERY, help="Send these types, such as session.*,gpu.unhealthy [*].")
@click.option("--slack", is_flag=True, help="Send each event as a text for Slack or Mattermost.")
@subcommand
def set_one(client: Client, name: str, url: str, events: str, slack: bool) -> None:
    """Create or change the webhook NAME, which posts to URL.

    The secret of a new webhook is printed once. The receiver verifies with it that events come from this
    gateway.
    """
    types = [each.strip() for each in events.split(",") if each.strip()]
    format = Format.SLACK if slack else Format.STANDARD
    made = client.ask("PUT", _path(name), {"url": url, "events": types, "format": format.value})
    click.echo(f"{made['name']} gets {', '.join(made['events'])}.")
    if made.get("secret"):
        click.echo(f"Secret:  {made['secret']}")


@webhook.command("list")
@as_json_option
@subcommand
def list_all(client: Client, as_json: bool) -> None:
    """List the webhooks."""
    response = client.ask("GET", "/webhooks")
    if as_json:
        print_json(response)
        return
    rows = [_webhook_row(each) for each in response["webhooks"]]
    print_lines(Table(["NAME", "FORMAT", "STATE", "EVENTS", "URL"]).lines(rows))


@webhook.command()
@click.argument("name")
@subcommand
def remove(client: Client, name: str) -> None:
    """Remove the webhook NAME with what was not delivered yet."""
    client.ask("DELETE", _path(name))


@webhook.command()
@click.argument("name")
@subcommand
def test(client: Client, name: str) -> None:
    """Send a test event to the webhook NAME."""
    made = client.ask("POST", f"{_path(name)}/test")
    click.echo(f"Delivery {made['id']} is on its way; `gateway webhook deliveries {name}` shows the result.")


@webhook.command()
@click.argument("name")
@as_json_option
@subcommand
def deliveries(client: Client, name: str, as_json: bool) -> None:
    """Show the latest deliveries to the webhook NAME, newest last."""
    response = client.ask("GET", f"{_path(name)}/deliveries")
    if as_json:
        print_json(response)
        return
    found = response["deliveries"]
    table = Table(["ID", "CREATED (UTC)", "EVENT", "STATE", "ATTEMPTS", "LAST ANSWER"])
    colours = [_COLOURS[_state(each)] for each in found]
    print_lines(table.lines([_row(each) for each in found], colours))


@webhook.command()
@click.argument("name")
@click.argument("delivery_id", metavar="ID", type=click.IntRange(0))
@subcommand
def retry(client: Client, name: str, delivery_id: int) -> None:
    """Send the delivery ID to the webhook NAME again."""
    client.ask("POST", f"{_path(name)}/deliveries/{delivery_id}/retry")


def _path(name: str) -> str:
    return f"/webhooks/{quote(name, safe='')}"


def _webhook_row(webhook: Mapping[str, Any]) -> list[str]:
    state = "off" if webhook["disabled_at"] else "on"
    return [webhook["name"], webhook["format"], state, ",".join(webhook["events"]), webhook["url"]]


def _state(delivery: Mapping[str, Any]) -> str:
    return "delivered" if delivery["delivered_at"] else "waiting" if delivery["next_at"] else "failed"


def _row(delivery: Mapping[str, Any]) -> list[str]:
    created = delivery["created_at"].replace("T", " ").rstrip("Z")
    answer = delivery["error"] or delivery["status"] or "-"
    numbers = [str(delivery["attempts"]), str(answer)]
    return [str(delivery["id"]), created, delivery["type"], _state(delivery), *numbers]
