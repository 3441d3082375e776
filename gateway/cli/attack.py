"""`gateway doctor --attack`: what was tried to get into and out of a session, and what stopped it."""

import dataclasses
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from gateway.cli.table import Table, colour
from gateway.client import Client
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.doctor.attack import Attempt

_COLOURS = {"stopped": "green", "through": "red", "unclear": "red"}


def run_attack(client: Client, settings: Settings, as_json: bool) -> int:
    """The exit code."""
    from gateway import clock
    from gateway.doctor.attack import attack
    from gateway.doctor.outside import Outside, login_with_ssh
    from gateway.probes.catalogue import INSIDE, OUTSIDE
    from gateway.repositories.database import SqlDatabase
    from gateway.repositories.docker import Docker
    from gateway.repositories.inside import Inside
    from gateway.repositories.pipes import Pipes
    from gateway.tokens import Tokens

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was made is taken away
    tokens = Tokens(SqlDatabase(settings.db), clock.read)
    outside = Outside(client, Pipes(settings.piper_config), tokens, clock.read, login_with_ssh)
    with click.progressbar(length=len(INSIDE) + len(OUTSIDE), label="Attacking", file=sys.stderr) as bar:
        attempts = attack(client, settings, Inside(Docker()), outside, INSIDE, lambda: bar.update(1))
    withstood = all(attempt.failed for attempt in attempts)
    if as_json:
        told = [dataclasses.asdict(attempt) for attempt in attempts]
        click.echo(json.dumps({"withstood": withstood, "attempts": told}, indent=2))
    else:
        for line in _lines(attempts):
            click.echo(line, color=colour())
    return 0 if withstood else 1


def _lines(attempts: Sequence["Attempt"]) -> Iterator[str]:
    rows = [(one.origin, one.name, one.outcome.verdict, one.outcome.why) for one in attempts]
    colours = [_COLOURS.get(one.outcome.verdict) for one in attempts]
    yield from Table(["FROM", "WHAT WAS TRIED", "RESULT", "WHAT STOPPED IT"]).lines(rows, colours)
    yield ""
    through = [one for one in attempts if not one.failed]
    if through:
        yield click.style(f"{len(through)} of {len(attempts)} attacks were not stopped.", fg="red")
    else:
        yield click.style(f"None of {len(attempts)} attacks got through.", fg="green")
