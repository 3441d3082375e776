"""`gateway create`: a session for a user, and the line to connect with."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import click

from gateway.cli.durations import Duration, minutes
from gateway.cli.key_files import public_keys
from gateway.cli.options import as_json_option, client_options
from gateway.cli.output import print_json
from gateway.cli.progress import progress
from gateway.cli.session_text import date
from gateway.cli.waiting import wait_for
from gateway.client import Client


@click.command()
@client_options
@click.argument("user")
@click.option("--profile", metavar="PROFILE", help="Give the session this MIG profile, such as 3g.20gb.")
@click.option("--ttl", type=Duration(), metavar="DURATION", help="Let the lease last this long, such as 4h.")
@click.option(
    "--key", "keys", type=click.File(), multiple=True, metavar="FILE", help="Let in the public keys of FILE."
)
@click.option("--image", metavar="NAME", help="Run the session on this image of `gateway image list`.")
@click.option(
    "--wait",
    type=Duration(),
    metavar="DURATION",
    help="If no slice is free, wait in line this long, such as 4h.",
)
@click.option("--override", is_flag=True, help="Go beyond the policy of USER.")
@as_json_option
def create(
    client: Client,
    user: str,
    profile: str | None,
    ttl: timedelta | None,
    keys: Sequence[TextIO],
    image: str | None,
    wait: timedelta | None,
    override: bool,
    as_json: bool,
) -> None:
    """Open a session for USER, and print the line to connect with.

    Without --key the keys that are stored for USER open it. If there are none, the gateway makes a pair, and
    its private key is written to USER.key.

    With --wait the command shows the place in line and the promised time until the session is open. An
    interrupt leaves the request in line.
    """
    body: dict[str, Any] = {"user_id": user}
    if profile is not None:
        body["mig_profile"] = profile
    if ttl is not None:
        body["ttl_minutes"] = minutes(ttl)
    if image is not None:
        body["image"] = image
    if keys:
        body["ssh_public_keys"] = public_keys(keys, "--key")
    if wait is not None:
        body["wait_minutes"] = minutes(wait)
    if override:
        body["override"] = True
    with progress(f"Opening a session for {user}"):
        answer = client.ask("POST", "/sessions", body)
    if as_json and answer["status"] != "active":
        print_json(answer)  # the only answer with the private key
    identity = "" if as_json else _keep_private_key(answer)
    session = answer if answer["status"] == "active" else wait_for(client, answer)
    if as_json:
        print_json(session)
        return
    click.echo(f"{session['user_id']} has a {session['mig_profile']} until {date(session['expires_at'])}.")
    click.echo(f"Connect with:  {session['ssh_command'].replace('ssh ', f'ssh {identity}', 1)}")


def _keep_private_key(session: Mapping[str, Any]) -> str:
    """Write the key that the gateway made, if it did, and return ssh's option for it."""
    key = session.get("ssh_private_key")
    if key is None:
        return ""
    path = Path(f"{session['user_id']}.key")
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key)
    except OSError as error:
        click.echo(f"{path} cannot be written ({error.strerror}). This is the private key, shown once:")
        click.echo(key)
        return "-i KEY "
    click.echo(f"The gateway made a key pair. The private key is in {path}: give it to {session['user_id']}.")
    return f"-i {path} "
