"""`gateway keys`: the public keys stored for a user."""

from typing import TextIO
from urllib.parse import quote

import click

from gateway.cli.key_files import public_keys
from gateway.cli.options import client_options
from gateway.client import Client


@click.command()
@client_options
@click.argument("user")
@click.argument("files", nargs=-1, type=click.File())
@click.option("--remove", is_flag=True, help="Remove all stored keys of the user.")
def keys(client: Client, user: str, files: tuple[TextIO, ...], remove: bool) -> None:
    """Show or replace the public keys stored for USER.

    With FILES, such as id_ed25519.pub, the keys in them replace the stored ones. A live session that stored
    keys opened gets the new keys at once, and the gateway closes the connections of revoked keys.
    """
    if files and remove:
        raise click.UsageError("Give files or --remove, not both.")
    path = f"/users/{quote(user, safe='')}/keys"
    body = {"ssh_public_keys": public_keys(files, "FILES") if files else []}
    response = client.ask("PUT", path, body) if files or remove else client.ask("GET", path)
    for line in response["ssh_public_keys"]:
        click.echo(line)
