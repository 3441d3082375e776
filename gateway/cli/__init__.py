"""The `gateway` command: one module for each group of commands.

An error is one line and a non-zero exit status: 1 if the command was refused or failed, 2 if it was wrong, 75
if it may succeed later.
"""

import os
import sys

import click

from gateway.cli import settings_file
from gateway.cli.completion import completion
from gateway.cli.create import create
from gateway.cli.database import backup, migrate, recover, restore, take_over
from gateway.cli.doctor import doctor
from gateway.cli.events import events
from gateway.cli.gpus import gpus
from gateway.cli.image import image
from gateway.cli.keys import keys
from gateway.cli.message import message
from gateway.cli.policy import policy
from gateway.cli.queue import queue
from gateway.cli.serving import mirror_pipes, router, serve
from gateway.cli.sessions import end, extend, sessions, show
from gateway.cli.token import token
from gateway.cli.usage import usage
from gateway.cli.webhook import webhook
from gateway.cli.why import keep, why
from gateway.client import Refused
from gateway.errors import GatewayError, Unavailable

_FAILED, _TRY_LATER = 1, 75  # the second is EX_TEMPFAIL of sysexits.h


@click.group(context_settings={"max_content_width": 120})
@click.version_option(package_name="gpu-ssh-gateway")
@click.pass_context
def gateway(context: click.Context) -> None:
    """One SSH entry point to hardened containers, each with a MIG slice of its own."""
    name = context.invoked_subcommand or ""
    if not set(context.help_option_names) & set(sys.argv):
        settings_file.apply(os.environ, name, needs_settings=name in {each.name for each in _OF_THE_HOST})


_OF_THE_HOST = (serve, router, mirror_pipes, migrate, backup, restore, recover, take_over, token, doctor)
_OF_CLIENTS = (
    create,
    queue,
    sessions,
    show,
    extend,
    end,
    message,
    why,
    keep,
    keys,
    gpus,
    events,
    usage,
    policy,
    image,
    webhook,
    completion,
)
for command in _OF_THE_HOST + _OF_CLIENTS:
    gateway.add_command(command)


def main() -> None:
    os.umask(os.umask(0) | 0o022)  # no other account may change the gateway's files
    try:
        gateway.main(prog_name="gateway")
    except GatewayError as error:
        for line in str(error).splitlines():
            print(f"gateway: {line}", file=sys.stderr)
        sys.exit(_TRY_LATER if _is_temporary(error) else _FAILED)


def _is_temporary(error: GatewayError) -> bool:
    return error.is_temporary if isinstance(error, Refused) else isinstance(error, Unavailable)
