"""`gateway serve`, `router` and `mirror-pipes`: the commands that run until they are stopped.

Each command imports its modules when it is called, because gunicorn, Flask and Docker are slow to import.
"""

import os
import signal
import sys
import threading
from pathlib import Path

import click

from gateway.cli.options import settings_options, two_lines
from gateway.errors import StartRefused
from gateway.logs import LEVELS
from gateway.settings import Settings


@click.command()
@settings_options()
def serve(**flags: str | bool | None) -> None:
    """Serve the API, and close sessions when their leases end."""
    _require_directory()
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
    metavar="HOST:PORT,…",
    default="0.0.0.0:22",
    envvar="GATEWAY_ROUTER_LISTEN",
    help=two_lines("Listen on these addresses.", "GATEWAY_ROUTER_LISTEN; 0.0.0.0:22"),
)
@click.option(
    "--host-key",
    "host_keys",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="PATH",
    envvar="GATEWAY_ROUTER_HOST_KEY",
    help=two_lines(
        "Use this private host key; several may be given.",
        "GATEWAY_ROUTER_HOST_KEY; made beside --piper-config",
    ),
)
@click.option(
    "--processes",
    type=click.IntRange(1, 1024),
    metavar="N",
    envvar="GATEWAY_ROUTER_PROCESSES",
    help=two_lines("Share the connections among N processes.", "GATEWAY_ROUTER_PROCESSES; one for each core"),
)
@click.option(
    "--lobby-key",
    type=click.Path(path_type=Path),
    metavar="PATH",
    envvar="GATEWAY_ROUTER_LOBBY_KEY",
    help=two_lines("Be the lobby for the SSHPiper with this key.", "GATEWAY_ROUTER_LOBBY_KEY"),
)
@click.option(
    "--metrics-listen",
    "metrics_address",
    metavar="HOST:PORT",
    envvar="GATEWAY_ROUTER_METRICS_LISTEN",
    help=two_lines("Serve /metrics on this address.", "GATEWAY_ROUTER_METRICS_LISTEN; none"),
)
@click.option(
    "--user",
    metavar="NAME",
    envvar="GATEWAY_ROUTER_USER",
    help=two_lines("Give up root and run as this account.", "GATEWAY_ROUTER_USER; who starts the router"),
)
@click.option(
    "--prepare",
    is_flag=True,
    help="Give the account of --user the files that it reads, and end. Needs root.",
)
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    envvar="GATEWAY_ROUTER_LOG_LEVEL",
    help=two_lines("Log messages of at least this level.", "GATEWAY_ROUTER_LOG_LEVEL; info"),
)
def router(
    addresses: str,
    host_keys: tuple[Path, ...],
    processes: int | None,
    lobby_key: Path | None,
    metrics_address: str | None,
    user: str | None,
    prepare: bool,
    log_level: str,
    **flags: str | bool | None,
) -> None:
    """Route SSH logins by the pipe file, in place of SSHPiper."""
    from gateway.logs import OneLineASecond, log_to_stderr
    from gateway.router import Account
    from gateway.router import prepare as prepare_router
    from gateway.router import serve as serve_router

    settings = Settings.load(os.environ, flags)
    account = Account.named(user) if user else None
    if prepare:
        if account is None:
            raise StartRefused("--prepare needs --user: name the account that the router will run as.")
        prepare_router(settings.piper_config, *host_keys, account=account)
        return
    listen = [_address(text, "--listen") for text in addresses.split(",")]
    metrics = _address(metrics_address, "--metrics-listen") if metrics_address else None
    log_to_stderr(settings.log_format, log_level, OneLineASecond())
    serve_router(
        settings.piper_config,
        listen,
        *host_keys,
        processes=processes,
        lobby_key=lobby_key,
        metrics=metrics,
        account=account,
    )


@click.command("mirror-pipes")
@settings_options("piper_config", "namespace_routes", "log_format")
def mirror_pipes(**flags: str | bool | None) -> None:
    """Write a router's pipe file from a cluster's Pipes."""
    from gateway.app.cluster import mirror_of
    from gateway.logs import log_to_stderr

    settings = Settings.load(os.environ, flags)
    log_to_stderr(settings.log_format)
    # The first process of a container ignores a signal without a handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    mirror_of(settings).run(threading.Event())


def _require_directory() -> None:
    """Raises `StartRefused` if the current directory was deleted, because gunicorn needs it at import."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise StartRefused(
            "The current directory was deleted: change to another one, such as `cd /`."
        ) from None


def _address(text: str, flag: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise StartRefused(f"{flag}: {text!r} is not HOST:PORT.")
    return host.strip("[]"), int(port)
