"""The `gateway` command: serve, migrate, token, router, gpus. A failure is one line and a non-zero exit."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from gateway import slice_map
from gateway.client import Client, read_token
from gateway.errors import GatewayError, StartRefused
from gateway.settings import Settings
from gateway.token_commands import token


def _settings_options(*only: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A flag for each setting (or for those named), without a default of its own: `Settings.load` decides."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for setting in reversed(dataclasses.fields(Settings)):
            if not only or setting.name in only:
                command = click.option(_flag(setting), **_option(setting))(command)
        return command

    return decorate


def _flag(setting: dataclasses.Field[Any]) -> str:
    name = setting.name.replace("_", "-")
    return f"--{name}/--no-{name}" if setting.default is True else f"--{name}"


def _option(setting: dataclasses.Field[Any]) -> dict[str, Any]:
    explanation = f"{setting.metadata['help']} [GATEWAY_{setting.name.upper()}"
    if isinstance(setting.default, bool):
        return {"is_flag": True, "default": None, "help": explanation + "]"}
    default = setting.default
    if default is dataclasses.MISSING and callable(setting.default_factory):
        default = setting.default_factory()
    return {"default": None, "help": f"{explanation}; {default}]" if default else explanation + "]"}


@click.group(context_settings={"max_content_width": 120})
@click.version_option(package_name="gpu-ssh-gateway")
def gateway() -> None:
    """One SSH entry point to hardened containers, each with a MIG slice for as long as its lease lasts."""


gateway.add_command(token)


@gateway.command()
@_settings_options()
def serve(**flags: str | bool | None) -> None:
    """Serve the API and take sessions back when their leases end."""
    # gunicorn, Flask and Docker load slowly; the other commands do without them
    from gateway.logs import log_to_stderr
    from gateway.server import Server, require_fit

    settings = Settings.load(os.environ, flags)
    require_fit(settings)
    log_to_stderr(settings.log_format)
    Server(settings).run()


@gateway.command()
@_settings_options("db")
def migrate(**flags: str | bool | None) -> None:
    """Bring the database to this version's schema, keeping a backup copy."""
    from gateway.repositories import schema

    settings = Settings.load(os.environ, flags)
    backup = schema.upgrade(settings.db)
    click.echo(f"{settings.db} is current" + (f"; the copy from before is {backup}" if backup else ""))


@gateway.command()
@_settings_options("piper_config", "log_format")
@click.option(
    "--listen",
    "addresses",
    default="0.0.0.0:22",
    envvar="GATEWAY_ROUTER_LISTEN",
    help="addresses to listen on, separated by commas [GATEWAY_ROUTER_LISTEN; 0.0.0.0:22]",
)
@click.option(
    "--host-key",
    type=click.Path(path_type=Path),
    envvar="GATEWAY_ROUTER_HOST_KEY",
    help="private host key, made at the first start (beside --piper-config if not set)",
)
def router(addresses: str, host_key: Path | None, **flags: str | bool | None) -> None:
    """Route SSH logins by the pipe file, where SSHPiper cannot be had."""
    from gateway.logs import log_to_stderr
    from gateway.router import serve as serve_router

    settings = Settings.load(os.environ, flags)
    config = settings.piper_config
    listen = [_address(text) for text in addresses.split(",")]
    log_to_stderr(settings.log_format)
    serve_router(config, listen, host_key or config.parent / "ssh_host_ed25519_key")


@gateway.group(invoke_without_command=True)
@click.option(
    "--url",
    default="http://127.0.0.1:8080",
    envvar="GATEWAY_URL",
    help="the gateway to ask [GATEWAY_URL; http://127.0.0.1:8080]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    envvar="GATEWAY_TOKEN_FILE",
    help="file with the API token, where GATEWAY_TOKEN does not hold it [GATEWAY_TOKEN_FILE]",
)
@click.option("--json", "as_json", is_flag=True, help="as GET /gpus answers, for scripts")
@click.pass_context
def gpus(context: click.Context, url: str, token_file: Path | None, as_json: bool) -> None:
    """Show what is on each GPU: who, which profile, until when, and what is free."""
    context.obj = Client(url, read_token(token_file))
    if context.invoked_subcommand:
        return
    answer = context.obj.ask("GET", "/gpus")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
    else:
        plain = False if os.environ.get("NO_COLOR") else None
        click.echo(slice_map.draw(answer["gpus"], datetime.now(UTC)), color=plain)


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


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise StartRefused(f"--listen: {text!r} is not HOST:PORT.")
    return host.strip("[]"), int(port)


def main() -> None:
    try:
        gateway.main(standalone_mode=True)
    except GatewayError as error:
        print(f"gateway: {error}", file=sys.stderr)
        sys.exit(1)
