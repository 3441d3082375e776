"""`gateway serve` and `gateway router`: the commands that run until they are stopped.

Each imports what it needs when it is called, because gunicorn, Flask and Docker are slow to import.
"""

import os
from pathlib import Path

import click

from gateway.cli.options import settings_options, two_lines
from gateway.errors import StartRefused
from gateway.settings import Settings


@click.command()
@settings_options()
def serve(**flags: str | bool | None) -> None:
    """Serve the API, and close sessions when their leases end."""
    from gateway.logs import log_to_stderr
    from gateway.server import Server, require_fit

    settings = Settings.load(os.environ, flags)
    require_fit(settings)
    log_to_stderr(settings.log_format)
    Server(settings).run()


@click.command()
@settings_options("piper_config", "log_format")
@click.option(
    "--listen",
    "addresses",
    default="0.0.0.0:22",
    envvar="GATEWAY_ROUTER_LISTEN",
    metavar="HOST:PORT,…",
    help=two_lines("Listen on these addresses.", "GATEWAY_ROUTER_LISTEN; 0.0.0.0:22"),
)
@click.option(
    "--host-key",
    type=click.Path(path_type=Path),
    envvar="GATEWAY_ROUTER_HOST_KEY",
    metavar="PATH",
    help=two_lines(
        "Use this private host key, made at the first start.",
        "GATEWAY_ROUTER_HOST_KEY; beside --piper-config",
    ),
)
def router(addresses: str, host_key: Path | None, **flags: str | bool | None) -> None:
    """Route SSH logins by the pipe file, in place of SSHPiper."""
    from gateway.logs import log_to_stderr
    from gateway.router import serve as serve_router

    settings = Settings.load(os.environ, flags)
    config = settings.piper_config
    listen = [_address(text) for text in addresses.split(",")]
    log_to_stderr(settings.log_format)
    serve_router(config, listen, host_key or config.parent / "ssh_host_ed25519_key")


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise StartRefused(f"--listen: {text!r} is not HOST:PORT.")
    return host.strip("[]"), int(port)
