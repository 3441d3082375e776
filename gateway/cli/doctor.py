"""`gateway doctor`: do the places where sessions exist agree, and is all there that sessions need."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.attack import run_attack
from gateway.cli.options import client_options, settings_options
from gateway.cli.table import Table, colour
from gateway.client import Client
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.doctor.diagnosis import Diagnosis
    from gateway.doctor.differences import Difference

_SETTINGS = (
    "db",
    "state_dir",
    "piper_config",
    "workspace_root",
    "ssh_host_key",
    "simulate_gpus",
    "mig_policy",
    "image",
    "network",
    "subnet",
    "port",
    "ssh_port",
    "session_memory",
    "session_pids",
    "session_shm",
    "session_tmp",
)


@click.command()
@client_options
@settings_options(*_SETTINGS)
@click.option("--json", "as_json", is_flag=True, help="one JSON object, for scripts")
@click.option("--attack", is_flag=True, help="try to get out of two sessions that are made for it")
def doctor(client: Client, as_json: bool, attack: bool, **flags: str | bool | None) -> None:
    """Compare the places where sessions exist, and say what differs and what becomes of it.

    Changes nothing, and works on the gateway's host whether the gateway runs or not. Exits with 0 when all
    agree and nothing is wrong, else with 1.

    With --attack it asks the running gateway for two sessions instead, tries from inside one of them what its
    user should not be able to do, and from outside what nobody should, and takes both away again. Exits with
    1 when anything got through. With tokens in use it needs an administrator's.
    """
    settings = Settings.load(os.environ, flags)
    if attack:
        sys.exit(run_attack(client, settings, as_json))
    from gateway.doctor.diagnosis import diagnose

    diagnosis = diagnose(settings)
    if as_json:
        click.echo(json.dumps(_json(diagnosis), indent=2))
    else:
        for line in _lines(diagnosis):
            click.echo(line, color=colour())
    sys.exit(0 if diagnosis.healthy else 1)


def _json(diagnosis: "Diagnosis") -> dict[str, Any]:
    findings = [dataclasses.asdict(finding) for finding in diagnosis.findings]
    return {"healthy": diagnosis.healthy, "checks": findings, **dataclasses.asdict(diagnosis.comparison)}


def _lines(diagnosis: "Diagnosis") -> Iterator[str]:
    findings, comparison = diagnosis.findings, diagnosis.comparison
    rows = [(finding.name, finding.says) for finding in findings]
    yield from Table(["CHECK", "STATE"]).lines(rows, ["green" if one.ok else "red" for one in findings])
    yield ""
    found = [(one, "red") for one in comparison.differences] + [(one, None) for one in comparison.others]
    if found:
        table = Table(["PLACE", "USER", "SESSION", "WHAT", "THEN"])
        yield from table.lines([_row(one) for one, _ in found], [colour for _, colour in found])
        yield ""
    for place, why in comparison.unseen.items():
        yield click.style(f"{place}: could not look: {why}", fg="red")
    yield _summary(diagnosis)
    if os.geteuid() and not diagnosis.healthy:
        yield "Not everything can be looked at as this user: run it as root."


def _row(one: "Difference") -> list[str]:
    return [one.place, one.user_id or "-", one.session_id or "-", one.what, one.then]


def _summary(diagnosis: "Diagnosis") -> str:
    comparison = diagnosis.comparison
    if comparison.sessions is None:
        return click.style("Which sessions there should be is not known: nothing was compared.", fg="red")
    if comparison.differences:
        said = _counted(len(comparison.differences), "difference")
    else:
        said = "What could be looked at agrees" if comparison.unseen else "All places agree"
    failed = sum(not finding.ok for finding in diagnosis.findings)
    more = f"; {_counted(failed, 'check')} failed" if failed else ""
    line = f"{said}, {_counted(comparison.sessions, 'session')}{more}."
    return click.style(line, fg="green" if diagnosis.healthy else "red")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
