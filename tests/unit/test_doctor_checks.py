"""What else the doctor looks at on its host, and how it shows what it found."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.app import Parts
from gateway.cli import gateway
from gateway.doctor import diagnosis
from gateway.doctor.checks import Finding, examine
from gateway.doctor.diagnosis import Diagnosis
from gateway.doctor.differences import NOT_OURS, Difference
from gateway.doctor.places import Comparison
from gateway.domain.mig import MigMode
from gateway.domain.observation import Place
from gateway.errors import NetworkUnavailable
from gateway.repositories.sql.database import SqlDatabase, make_read_only_engine
from tests.conftest import Bench
from tests.unit.test_doctor import host_of


@pytest.fixture
def examined(bench: Bench) -> Callable[[], dict[str, Finding]]:
    bench.settings.workspace_root.mkdir()

    def look() -> dict[str, Finding]:
        database = SqlDatabase(bench.settings.db, make_read_only_engine)
        parts = Parts(database, host_of(bench), bench.pipes, bench.clock)
        try:
            return {finding.name: finding for finding in examine(bench.settings, parts)}
        finally:
            database.engine.dispose()

    return look


@pytest.fixture
def led(bench: Bench) -> Iterator[None]:
    """As by a gateway's reaper."""
    with open(bench.settings.state_dir / "reaper.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


Examined = Callable[[], dict[str, Finding]]


def test_all_is_well_where_a_gateway_leads(bench: Bench, led: None, examined: Examined) -> None:
    found = examined()
    assert [finding for finding in found.values() if not finding.ok] == []
    assert found["mig"].says == "ok: GPU 0 enabled"
    assert found["reaper"].says.endswith(f"led by process {os.getpid()}")
    assert "workspaces" in found["disks"].says


def test_nothing_is_made_or_changed_by_looking(bench: Bench, led: None, examined: Examined) -> None:
    def files() -> dict[str, int]:
        return {str(path): path.lstat().st_mtime_ns for path in bench.settings.state_dir.parent.rglob("*")}

    before = files()
    examined()
    assert files() == before


def test_it_is_told_when_nobody_leads(bench: Bench, examined: Examined) -> None:
    assert examined()["reaper"].says == "The reaper has not looked yet."
    lock = bench.settings.state_dir / "reaper.lock"
    lock.touch()
    assert "Nobody leads" in examined()["reaper"].says
    os.utime(lock, (0, 0))
    assert "has not looked for" in examined()["reaper"].says
    assert not examined()["reaper"].ok


def test_a_database_of_another_schema_names_the_command(bench: Bench, examined: Examined) -> None:
    with bench.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    assert "run `gateway migrate" in examined()["schema"].says


def test_a_missing_database_is_not_made(bench: Bench, examined: Examined) -> None:
    for path in bench.settings.state_dir.glob("sessions.db*"):
        path.unlink()
    found = examined()
    assert (found["schema"].ok, found["database"].ok) == (False, False)
    assert "does not exist" in found["schema"].says
    assert not list(bench.settings.state_dir.glob("sessions.db*"))


@pytest.mark.parametrize(
    ("path", "mode", "remedy"),
    [
        ("state/sessions.db", 0o644, "chmod 600"),
        ("state", 0o777, "chmod go-w"),
        ("pipe.yaml", 0o640, "chmod 600"),
        ("workspaces/ann", 0o755, "chmod 700"),
    ],
)
def test_what_is_open_to_others_is_named_with_its_remedy(
    bench: Bench, examined: Examined, path: str, mode: int, remedy: str
) -> None:
    (bench.settings.state_dir / "sessions.db").chmod(0o600)
    bench.settings.piper_config.touch(0o600)
    (bench.settings.workspace_root / "ann").mkdir(0o700)
    assert examined()["permissions"] == Finding("permissions", True, "ok")
    target = bench.settings.state_dir.parent / path
    target.chmod(mode)
    assert examined()["permissions"].says.endswith(f"{remedy} {target}")
    target.chmod(0o700)


def test_a_link_among_the_workspaces_is_named(bench: Bench, examined: Examined) -> None:
    (bench.settings.workspace_root / "ann").symlink_to("/etc")
    assert "is no directory" in examined()["permissions"].says


def test_a_disk_that_is_nearly_full_is_told(
    bench: Bench, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 9, 2**29))
    assert examined()["disks"].says.startswith("A disk is nearly full: state 0.5 GiB free")


def test_a_place_that_is_not_there_could_not_be_looked_at(bench: Bench, examined: Examined) -> None:
    bench.settings.workspace_root.rmdir()
    assert examined()["disks"].says.startswith("could not look: No such file or directory")


def test_gpus_without_mig_and_a_broken_network_are_told(bench: Bench, examined: Examined) -> None:
    bench.gpus.set_mode(bench.gpus.list()[0].uuid, MigMode.DISABLED)
    bench.network.failure = NetworkUnavailable("The firewall chain is missing.")
    found = examined()
    assert "nvidia-smi -i 0 -mig 1" in found["mig"].says
    assert found["network"] == Finding("network", False, "The firewall chain is missing.")


# The command.

FINE = Finding("docker", True, "ok")
DIFFERENCE = Difference(Place.PIPES, "no route", "published at the next tick", "abc", "ann")
STRANGER = Difference(Place.DRIVER, "a 1g.5gb that no session has", NOT_OURS)


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    def run(findings: list[Finding], comparison: Comparison, *arguments: str, **options: Any) -> Result:
        monkeypatch.setattr(diagnosis, "diagnose", lambda _settings: Diagnosis(findings, comparison))
        return CliRunner().invoke(gateway, ["doctor", *arguments], **options)

    return run


def test_agreement_is_told_and_is_exit_0(doctor: Callable[..., Result]) -> None:
    shown = doctor([FINE], Comparison(2, [], [STRANGER], {}))
    assert shown.exit_code == 0
    assert shown.stdout.splitlines() == [
        "CHECK   STATE",
        "docker  ok",
        "",
        "PLACE       USER  SESSION  WHAT                          THEN",
        "GPU driver  -     -        a 1g.5gb that no session has  left alone: not the gateway's",
        "",
        "All places agree, 2 sessions.",
    ]


@pytest.mark.parametrize(
    ("findings", "comparison", "last_line"),
    [
        ([FINE], Comparison(1, [DIFFERENCE], [], {}), "1 difference, 1 session."),
        ([FINE], Comparison(1, [], [], {Place.DOCKER: "gone"}), "What could be looked at agrees, 1 session."),
        (
            [Finding("image", False, "no image")],
            Comparison(0, [], [], {}),
            "All places agree, 0 sessions; 1 check failed.",
        ),
        (
            [FINE],
            Comparison(None, [], [], {Place.DATABASE: "locked"}),
            "Which sessions there should be is not known: nothing was compared.",
        ),
    ],
)
def test_anything_else_is_exit_1(
    doctor: Callable[..., Result], findings: list[Finding], comparison: Comparison, last_line: str
) -> None:
    shown = doctor(findings, comparison)
    assert shown.exit_code == 1
    assert shown.stdout.splitlines()[-1] == last_line
    assert all(f"{place}: could not look: {why}" in shown.stdout for place, why in comparison.unseen.items())
    assert "\x1b" not in shown.stdout
    assert "\x1b" in doctor(findings, comparison, color=True).stdout


def test_somebody_who_is_not_root_is_told_to_be(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    unseen = Comparison(None, [], [], {Place.DATABASE: "unable to open database file"})
    assert doctor([FINE], unseen).stdout.splitlines()[-1].endswith("run it as root.")
    assert "root" not in doctor([FINE], Comparison(0, [], [], {})).stdout


def test_scripts_get_all_of_it_as_json(doctor: Callable[..., Result]) -> None:
    shown = doctor([FINE], Comparison(1, [DIFFERENCE], [STRANGER], {Place.DOCKER: "gone"}), "--json")
    told = json.loads(shown.stdout)
    assert told["healthy"] is False
    assert told["checks"] == [{"name": "docker", "ok": True, "says": "ok"}]
    assert told["differences"][0]["place"] == "pipe file"
    assert told["others"][0]["then"] == NOT_OURS
    assert told["unseen"] == {"Docker": "gone"}
