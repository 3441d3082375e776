"""The `gateway` command, a module a group of commands. A failure is one line and a non-zero exit."""

import os
import sys

import click

from gateway.cli.database import backup, migrate, restore, take_over
from gateway.cli.doctor import doctor
from gateway.cli.events import events
from gateway.cli.gpus import gpus
from gateway.cli.keys import keys
from gateway.cli.serving import router, serve
from gateway.cli.token import token
from gateway.errors import GatewayError


@click.group(context_settings={"max_content_width": 120})
@click.version_option(package_name="gpu-ssh-gateway")
def gateway() -> None:
    """One SSH entry point to hardened containers, each with a MIG slice for as long as its lease lasts."""


for command in (serve, router, migrate, backup, restore, take_over, token, keys, gpus, events, doctor):
    gateway.add_command(command)


def main() -> None:
    os.umask(os.umask(0) | 0o022)  # no other account may change the gateway's files
    try:
        gateway.main(standalone_mode=True)
    except GatewayError as error:
        for line in str(error).splitlines():
            print(f"gateway: {line}", file=sys.stderr)
        sys.exit(1)
