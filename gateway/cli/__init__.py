"""The `gateway` command: one module for each group of commands.

An error is one line and a non-zero exit status: 1 if the command was refused or failed, 2 if it was wrong, 75
if it may succeed later.
"""

import importlib
import io
import os
import sys

import click

from gateway.cli import settings_file
from gateway.client import Refused
from gateway.errors import GatewayError, Unavailable

_FAILED, _WRONG, _TRY_LATER = 1, 2, 75  # the last is EX_TEMPFAIL of sysexits.h

_OF_THE_HOST = {  # each command with its module
    "serve": "serving",
    "router": "serving",
    "mirror-pipes": "serving",
    "squid-config": "squid",
    "migrate": "database",
    "backup": "database",
    "restore": "database",
    "recover": "database",
    "take-over": "database",
    "token": "token",
    "doctor": "doctor",
}
_OF_CLIENTS = {
    "create": "create",
    "queue": "queue",
    "sessions": "sessions",
    "show": "sessions",
    "extend": "sessions",
    "end": "sessions",
    "message": "message",
    "why": "why",
    "keep": "why",
    "keys": "keys",
    "gpus": "gpus",
    "events": "events",
    "usage": "usage",
    "policy": "policy",
    "image": "image",
    "webhook": "webhook",
    "completion": "completion",
}
_MODULES = _OF_THE_HOST | _OF_CLIENTS


class _Commands(click.Group):
    """Imports the module of a command only when the command is needed: `gateway serve` would keep the memory
    of all of them, and every command would take longer to start."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in _MODULES:
            return None
        module = importlib.import_module(f"gateway.cli.{_MODULES[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command


@click.group(cls=_Commands, context_settings={"max_content_width": 120})
@click.version_option(package_name="gpu-ssh-gateway")
@click.pass_context
def gateway(context: click.Context) -> None:
    """One SSH entry point to hardened containers, each with a MIG slice of its own."""
    name = context.invoked_subcommand or ""
    if not set(context.help_option_names) & set(sys.argv):
        settings_file.apply(os.environ, name, needs_settings=name in _OF_THE_HOST)


def main() -> None:
    os.umask(os.umask(0) | 0o022)  # no other account may change the gateway's files
    if isinstance(sys.stdout, io.TextIOWrapper):  # None if it is closed
        sys.stdout.reconfigure(errors="backslashreplace")  # for a terminal without these characters
    try:
        sys.exit(gateway.main(prog_name="gateway", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(_WRONG)
    except click.ClickException as error:
        print(f"gateway: {_in_one_line(error)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except click.Abort:
        print("gateway: Aborted.", file=sys.stderr)
        sys.exit(_FAILED)
    except UnicodeEncodeError:
        print("gateway: An argument is no text in the encoding of this shell.", file=sys.stderr)
        sys.exit(_WRONG)
    except OSError as error:
        print(f"gateway: {error}", file=sys.stderr)
        sys.exit(_FAILED)
    except GatewayError as error:
        for line in str(error).splitlines():
            print(f"gateway: {line}", file=sys.stderr)
        sys.exit(_TRY_LATER if _is_temporary(error) else _FAILED)


def _in_one_line(error: click.ClickException) -> str:
    """What was wrong, and which command explains how it is right."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "gateway"
    what = " ".join(error.format_message().split())
    return f"{what if what.endswith(('.', '?', ')')) else f'{what}.'} See `{command} --help`."


def _is_temporary(error: GatewayError) -> bool:
    return error.is_temporary if isinstance(error, Refused) else isinstance(error, Unavailable)
