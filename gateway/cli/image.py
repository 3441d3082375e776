"""`gateway image`: what sessions can run on."""

import os

import click

from gateway.cli.options import as_json_option, client_options
from gateway.cli.output import print_json, print_lines
from gateway.cli.table import Table
from gateway.client import Client
from gateway.errors import GatewayError
from gateway.settings import Settings


@click.group()
def image() -> None:
    """List and check the images for sessions."""


@image.command("list")
@client_options
@as_json_option
def list_all(client: Client, as_json: bool) -> None:
    """List the images, and why one is not ready."""
    response = client.ask("GET", "/images")
    if as_json:
        print_json(response)
        return
    found = response["images"]
    rows = [[each["name"], each["image"], each["problem"] or "ready"] for each in found]
    colours = ["red" if each["problem"] else None for each in found]
    print_lines(Table(["NAME", "IMAGE", "STATE"]).lines(rows, colours))


@image.command()
@click.argument("name", default="default")
def check(name: str) -> None:
    """Prove that sessions can run on the image NAME.

    NAME is one of --images, or of Docker's own. On the gateway's host, a container is started as the gateway
    does, but without a GPU, and examined from inside. Exit status 0: sessions can use the image.
    """
    from gateway.doctor.image.check import report

    settings = Settings.load(os.environ)
    reference = settings.named_images.get(name, name)
    if not report(reference, settings):
        raise GatewayError(f"Sessions cannot run on {reference}: correct what has failed.")
