"""`gateway keys`: the public keys stored for a user."""

from typing import TextIO
from urllib.parse import quote

import click

from gateway.cli.options import client_options
from gateway.client import Client


@click.command()
@client_options
@click.argument("user")
@click.argument("files", nargs=-1, type=click.File())
@click.option("--remove", is_flag=True, help="store none at all")
def keys(client: Client, user: str, files: tuple[TextIO, ...], remove: bool) -> None:
    """Show the public keys stored for USER, or store those in FILES (such as id_ed25519.pub) instead.

    A live session that stored keys opened has the new ones at once, and a withdrawn key's connections end.
    """
    if files and remove:
        raise click.UsageError("Give files or --remove, not both.")
    lines = [line.strip() for file in files for line in file if line.strip() and not line.startswith("#")]
    if files and not lines:
        raise click.UsageError("There is no key in these files; --remove stores none.")
    path = f"/users/{quote(user, safe='')}/keys"
    body = {"ssh_public_keys": lines}
    answer = client.ask("PUT", path, body) if lines or remove else client.ask("GET", path)
    for line in answer["ssh_public_keys"]:
        click.echo(line)
