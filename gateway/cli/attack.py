"""`gateway doctor --attack`: the attacks on a session, and what stopped each one."""

import dataclasses
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from gateway.cli.output import print_json, print_lines
from gateway.cli.table import Table
from gateway.client import Client
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.doctor.attack.arena import Attempt
    from gateway.doctor.attack.from_outside import Outside
    from gateway.doctor.attack.ground import Ground

_ROUTE_SECONDS = 3.0  # until a router of a cluster knows a changed Pipe
_COLOURS = {"stopped": "green", "through": "red", "unclear": "red"}


def run_attack(client: Client, settings: Settings, as_json: bool) -> int:
    """Attack the gateway, print the result and return the exit status."""
    from gateway.doctor.attack.arena import attack
    from gateway.doctor.attack.catalogue import INSIDE, OUTSIDE

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # closes the sessions, too
    means = _on_a_cluster if settings.is_cluster else _on_a_server
    ground, outside = means(client, settings)
    with click.progressbar(length=len(INSIDE) + len(OUTSIDE), label="Attacking", file=sys.stderr) as bar:
        attempts = attack(client, settings.db, ground, outside, INSIDE, lambda: bar.update(1))
    withstood = all(attempt.failed for attempt in attempts)
    if as_json:
        shown = [dataclasses.asdict(attempt) for attempt in attempts]
        print_json({"withstood": withstood, "attempts": shown})
    else:
        print_lines(_lines(attempts))
    return 0 if withstood else 1


def _on_a_server(client: Client, settings: Settings) -> tuple["Ground", "Outside"]:
    from gateway.doctor.attack.from_outside import Outside, login_with_ssh
    from gateway.doctor.attack.on_a_server import Server
    from gateway.doctor.attack.outside.proxies import connected
    from gateway.domain import clock
    from gateway.repositories.docker.client import Docker
    from gateway.repositories.docker.egress import proxy_name
    from gateway.repositories.docker.exec import Inside
    from gateway.repositories.files.pipes import Pipes
    from gateway.repositories.sql.database import SqlDatabase
    from gateway.services.tokens import Tokens

    inside = Inside(Docker())
    proxy = partial(connected, partial(inside.run, proxy_name(settings.network)))
    outside = Outside(
        client,
        Pipes(settings.piper_config),
        Tokens(SqlDatabase(settings.db), clock.read),
        clock.read,
        login_with_ssh,
        connected_from_proxy=proxy if settings.open_hosts else None,
    )
    return Server(settings, inside), outside


def _on_a_cluster(client: Client, settings: Settings) -> tuple["Ground", "Outside"]:
    from gateway.app.cluster import parts_of_cluster
    from gateway.doctor.attack.from_outside import Outside, login_with_ssh
    from gateway.doctor.attack.on_a_cluster import Cluster
    from gateway.repositories.kubernetes.api import connect
    from gateway.repositories.kubernetes.logins import SshLogins
    from gateway.services.tokens import Tokens

    parts = parts_of_cluster(settings)
    outside = Outside(
        client,
        parts.pipes,
        Tokens(parts.database, parts.clock),
        parts.clock,
        login_with_ssh,
        connects_as=None,
        route_seconds=_ROUTE_SECONDS,
    )
    return Cluster(settings, connect(), SshLogins()), outside


def _lines(attempts: Sequence["Attempt"]) -> Iterator[str]:
    rows = [(one.origin, one.name, one.outcome.verdict, one.outcome.why) for one in attempts]
    colours = [_COLOURS.get(one.outcome.verdict) for one in attempts]
    yield from Table(["FROM", "WHAT WAS TRIED", "RESULT", "WHAT STOPPED IT"]).lines(rows, colours)
    yield ""
    not_stopped = [one for one in attempts if not one.failed]
    if not_stopped:
        yield click.style(f"{len(not_stopped)} of {len(attempts)} attacks were not stopped.", fg="red")
    else:
        yield click.style(f"None of {len(attempts)} attacks succeeded.", fg="green")
