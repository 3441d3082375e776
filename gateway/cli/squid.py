"""`gateway squid-config`: what Squid reads in a pod of the egress proxy, see docs/fleet.md."""

import os

import click

from gateway.cli.options import settings_options
from gateway.domain import outside
from gateway.errors import StartRefused
from gateway.repositories import squid
from gateway.settings import Settings


@click.command("squid-config")
@settings_options("egress", "egress_hosts", "egress_private_subnets")
def squid_config(**flags: str | bool | None) -> None:
    """Print what Squid reads, the egress proxy of a cluster."""
    settings = Settings.load(os.environ, flags)
    if not settings.open_hosts:
        raise StartRefused("--egress (GATEWAY_EGRESS) is none: a proxy needs allowlist and --egress-hosts.")
    closed = outside.closed(None, settings.egress_private_subnets)
    click.echo(squid.configuration(None, settings.open_hosts, closed), nl=False)
