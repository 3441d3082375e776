"""The checks of the doctor, and the output of its command."""

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
from gateway.doctor.checks import CheckResult, examine
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
def examined(bench: Bench) -> Callable[[], dict[str, CheckResult]]:
    bench.settings.workspace_root.mkdir()

    def look() -> dict[str, CheckResult]:
        database = SqlDatabase(bench.settings.db, make_read_only_engine)
        parts = Parts(database, host_of(bench), bench.pipes, bench.notices, bench.clock)
        try:
            return {result.name: result for result in examine(bench.settings, parts)}
        finally:
            database.engine.dispose()

    return look


@pytest.fixture
def led(bench: Bench) -> Iterator[None]:
    """A gateway leads."""
    with open(bench.settings.state_dir / "reaper.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


Examined = Callable[[], dict[str, CheckResult]]


def test_every_check_succeeds_while_a_gateway_leads(bench: Bench, led: None, examined: Examined) -> None:
    found = examined()
    assert [result for result in found.values() if not result.ok] == []
    assert found["mig"].detail == "ok: GPU 0 enabled"
    assert found["reaper"].detail.endswith(f"the leader is process {os.getpid()}")
    assert "workspaces" in found["disks"].detail


def test_the_checks_change_nothing(bench: Bench, led: None, examined: Examined) -> None:
    def files() -> dict[str, int]:
        return {str(path): path.lstat().st_mtime_ns for path in bench.settings.state_dir.parent.rglob("*")}

    before = files()
    examined()
    assert files() == before


def test_a_missing_leader_is_reported(bench: Bench, examined: Examined) -> None:
    assert examined()["reaper"].detail == "The reaper has not finished a tick yet."
    lock = bench.settings.state_dir / "reaper.lock"
    lock.touch()
    assert "No gateway runs" in examined()["reaper"].detail
    os.utime(lock, (0, 0))
    assert "has not ticked for" in examined()["reaper"].detail
    assert not examined()["reaper"].ok


def test_an_older_schema_is_reported_with_the_command(bench: Bench, examined: Examined) -> None:
    with bench.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    assert "run `gateway migrate" in examined()["schema"].detail


def test_a_missing_database_is_not_created(bench: Bench, examined: Examined) -> None:
    for path in bench.settings.state_dir.glob("sessions.db*"):
        path.unlink()
    found = examined()
    assert (found["schema"].ok, found["database"].ok) == (False, False)
    assert "does not exist" in found["schema"].detail
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
def test_a_file_that_others_can_read_is_reported_with_the_remedy(
    bench: Bench, examined: Examined, path: str, mode: int, remedy: str
) -> None:
    (bench.settings.state_dir / "sessions.db").chmod(0o600)
    bench.settings.piper_config.touch(0o600)
    (bench.settings.workspace_root / "ann").mkdir(0o700)
    assert examined()["permissions"] == CheckResult("permissions", True, "ok")
    target = bench.settings.state_dir.parent / path
    target.chmod(mode)
    assert examined()["permissions"].detail.endswith(f"{remedy} {target}")
    target.chmod(0o700)


def test_a_link_among_the_workspaces_is_reported(bench: Bench, examined: Examined) -> None:
    (bench.settings.workspace_root / "ann").symlink_to("/etc")
    assert "is not a directory" in examined()["permissions"].detail


def test_a_nearly_full_disk_is_reported(
    bench: Bench, examined: Examined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10, 9, 2**29))
    assert examined()["disks"].detail.startswith("A disk is nearly full: state 0.5 GiB free")


def test_a_missing_directory_is_reported(bench: Bench, examined: Examined) -> None:
    bench.settings.workspace_root.rmdir()
    assert examined()["disks"].detail.endswith("cannot be read: No such file or directory")


def test_gpus_without_mig_and_a_broken_network_are_reported(bench: Bench, examined: Examined) -> None:
    bench.gpus.set_mode(bench.gpus.list()[0].uuid, MigMode.DISABLED)
    bench.network.failure = NetworkUnavailable("The firewall chain is missing.")
    found = examined()
    assert "nvidia-smi -i 0 -mig 1" in found["mig"].detail
    assert found["network"] == CheckResult("network", False, "The firewall chain is missing.")


# The command.

FINE = CheckResult("docker", True, "ok")
DIFFERENCE = Difference(Place.PIPES, "no route", "published at the next tick", "abc", "ann")
FOREIGN = Difference(Place.DRIVER, "a 1g.5gb that belongs to no session", NOT_OURS)


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    def run(findings: list[CheckResult], comparison: Comparison, *arguments: str, **options: Any) -> Result:
        monkeypatch.setattr(diagnosis, "diagnose", lambda _settings: Diagnosis(findings, comparison))
        return CliRunner().invoke(gateway, ["doctor", *arguments], **options)

    return run


def test_agreement_exits_with_0(doctor: Callable[..., Result]) -> None:
    shown = doctor([FINE], Comparison(2, [], [FOREIGN], {}))
    assert shown.exit_code == 0
    assert shown.stdout.splitlines() == [
        "CHECK   STATE",
        "docker  ok",
        "",
        "PLACE       USER  SESSION  WHAT                                 THEN",
        "GPU driver  -     -        a 1g.5gb that belongs to no session  kept: the gateway did not create it",
        "",
        "All places agree, 2 sessions.",
    ]


@pytest.mark.parametrize(
    ("findings", "comparison", "last_line"),
    [
        ([FINE], Comparison(1, [DIFFERENCE], [], {}), "1 difference, 1 session."),
        (
            [FINE],
            Comparison(1, [], [], {Place.DOCKER: "gone"}),
            "The places that could be read agree, 1 session.",
        ),
        (
            [CheckResult("image", False, "no image")],
            Comparison(0, [], [], {}),
            "All places agree, 0 sessions; 1 check failed.",
        ),
        (
            [FINE],
            Comparison(None, [], [], {Place.DATABASE: "locked"}),
            "The database cannot be read, so nothing was compared.",
        ),
    ],
)
def test_everything_else_exits_with_1(
    doctor: Callable[..., Result], findings: list[CheckResult], comparison: Comparison, last_line: str
) -> None:
    shown = doctor(findings, comparison)
    assert shown.exit_code == 1
    assert shown.stdout.splitlines()[-1] == last_line
    assert all(f"{place}: cannot be read: {why}" in shown.stdout for place, why in comparison.unseen.items())
    assert "\x1b" not in shown.stdout
    assert "\x1b" in doctor(findings, comparison, color=True).stdout


def test_a_user_other_than_root_is_advised_to_use_root(
    doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    unseen = Comparison(None, [], [], {Place.DATABASE: "unable to open database file"})
    assert doctor([FINE], unseen).stdout.splitlines()[-1].endswith("run the doctor as root.")
    assert "root" not in doctor([FINE], Comparison(0, [], [], {})).stdout


def test_json_has_the_whole_diagnosis(doctor: Callable[..., Result]) -> None:
    shown = doctor([FINE], Comparison(1, [DIFFERENCE], [FOREIGN], {Place.DOCKER: "gone"}), "--json")
    shown_json = json.loads(shown.stdout)
    assert shown_json["healthy"] is False
    assert shown_json["checks"] == [{"name": "docker", "ok": True, "says": "ok"}]
    assert shown_json["differences"][0]["place"] == "pipe file"
    assert shown_json["others"][0]["then"] == NOT_OURS
    assert shown_json["unseen"] == {"Docker": "gone"}
