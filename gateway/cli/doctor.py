"""`gateway doctor`: whether the places where sessions exist agree, and what sessions need is ready."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from gateway.cli.attack import run_attack
from gateway.cli.options import client_options, settings_options
from gateway.cli.output import print_json, print_lines
from gateway.cli.table import Table
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
    "whole_gpus",
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
@click.option("--attack", is_flag=True, help="Try to break out of two sessions made for this.")
def doctor(client: Client, as_json: bool, attack: bool, **flags: str | bool | None) -> None:
    """Report differences between the places where sessions exist.

    Compares database, Docker, GPU driver, pipe file and session files, or on a cluster database, pods,
    claims, Secrets and Pipes. Says what the reaper will do about each difference. Changes nothing. Works on
    the gateway's host, or in its pod, whether the gateway runs or not. Exits with 0 if all places agree and
    all checks succeed, otherwise with 1.

    With --attack the running gateway opens two sessions. The doctor attacks one of them from inside the other
    and from outside, and then closes both. Exits with 1 if an attack succeeds. If tokens are in use, this
    needs an administrator's token.
    """
    settings = Settings.load(os.environ, flags)
    if attack:
        sys.exit(run_attack(client, settings, as_json))
    from gateway.doctor.diagnosis import diagnose

    diagnosis = diagnose(settings)
    if as_json:
        print_json(_json(diagnosis))
    else:
        print_lines(_lines(diagnosis))
    sys.exit(0 if diagnosis.healthy else 1)


def _json(diagnosis: "Diagnosis") -> dict[str, Any]:
    checks = [{"name": check.name, "ok": check.ok, "says": check.detail} for check in diagnosis.checks]
    return {"healthy": diagnosis.healthy, "checks": checks, **dataclasses.asdict(diagnosis.comparison)}


def _lines(diagnosis: "Diagnosis") -> Iterator[str]:
    checks, comparison = diagnosis.checks, diagnosis.comparison
    rows = [(check.name, check.detail) for check in checks]
    yield from Table(["CHECK", "STATE"]).lines(rows, ["green" if check.ok else "red" for check in checks])
    yield ""
    found = [(one, "red") for one in comparison.differences] + [(one, None) for one in comparison.others]
    if found:
        table = Table(["PLACE", "USER", "SESSION", "WHAT", "THEN"])
        yield from table.lines([_row(one) for one, _ in found], [colour for _, colour in found])
        yield ""
    for place, reason in comparison.unseen.items():
        yield click.style(f"{place}: cannot be read: {reason}", fg="red")
    yield _summary(diagnosis)
    if os.geteuid() and not diagnosis.healthy:
        yield "This user cannot read everything: run the doctor as root."


def _row(one: "Difference") -> list[str]:
    return [one.place, one.user_id or "-", one.session_id or "-", one.what, one.then]


def _summary(diagnosis: "Diagnosis") -> str:
    comparison = diagnosis.comparison
    if comparison.sessions is None:
        return click.style("The database cannot be read, so nothing was compared.", fg="red")
    if comparison.differences:
        result = _counted(len(comparison.differences), "difference")
    else:
        result = "The places that could be read agree" if comparison.unseen else "All places agree"
    failed = sum(not check.ok for check in diagnosis.checks)
    failures = f"; {_counted(failed, 'check')} failed" if failed else ""
    line = f"{result}, {_counted(comparison.sessions, 'session')}{failures}."
    return click.style(line, fg="green" if diagnosis.healthy else "red")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
