"""Workspace quotas: enforced by the file system where possible, otherwise by measuring."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from gateway.domain.uids import FIRST_UID
from gateway.repositories.sql.database import SqlDatabase
from gateway.repositories.sql.rows import SessionRows
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

MIB = 2**20


@pytest.fixture
def watched(bench_of: BenchMaker, mocker: MockerFixture) -> Bench:
    """Over a file system without quotas, whatever the one beneath the tests has."""
    mocker.patch("gateway.repositories.files.quotas.are_enforced", return_value=False)
    return bench_of(FakeGpus(["A100-40GB"]), workspace_quota="10m")


def post(bench: Bench, user_id: str = "user123") -> Any:
    return bench.client.post("/sessions", json={"user_id": user_id})


def fill(bench: Bench, mib: float, user_id: str = "user123") -> Path:
    file = bench.settings.workspace_root / user_id / "data/big"
    file.write_bytes(bytes(int(mib * MIB)))
    return file


def summary(bench: Bench) -> list[str]:
    events = bench.client.get("/events").json["events"]
    return [event["what"] for event in events if event["what"].startswith("disk")]


def motd(bench: Bench, session_id: str) -> str:
    return (bench.settings.state_dir / "sessions" / session_id / "etc/motd").read_text()


def test_a_user_above_the_quota_gets_no_new_session_until_files_are_removed(watched: Bench) -> None:
    first = post(watched).json["session_id"]
    big = fill(watched, 11)
    watched.disk_use.survey()
    assert watched.client.get(f"/sessions/{first}").status_code == 200
    watched.client.delete(f"/sessions/{first}")
    refused = post(watched)
    assert (refused.status_code, refused.json["type"]) == (507, "/problems/workspace-full")
    assert post(watched, "user456").status_code == 201
    big.unlink()
    watched.disk_use.survey()
    assert post(watched).status_code == 201


def test_an_existing_session_is_reported_before_the_quota(watched: Bench) -> None:
    post(watched)
    fill(watched, 11)
    watched.disk_use.survey()
    assert post(watched).status_code == 409


def test_data_written_just_before_the_end_of_a_session_counts(watched: Bench) -> None:
    watched.disk_use.survey()
    session = post(watched).json["session_id"]
    fill(watched, 11)
    watched.client.delete(f"/sessions/{session}")
    watched.disk_use.survey()
    assert post(watched).status_code == 507


def test_a_user_near_the_quota_is_warned_at_the_next_login(watched: Bench) -> None:
    session = post(watched).json["session_id"]
    before = motd(watched, session)
    big = fill(watched, 9.5)
    watched.disk_use.survey()
    watched.disk_use.survey()
    assert motd(watched, session).startswith(before)
    assert motd(watched, session).count("Warning") == 1
    big.unlink()
    watched.disk_use.survey()
    assert motd(watched, session) == before


def test_only_reaching_a_higher_level_is_an_event(watched: Bench) -> None:
    post(watched)
    for mib in (1, 9.5, 9.6, 11, 12, 1, 9.5):
        fill(watched, mib)
        watched.disk_use.survey()
    assert summary(watched) == ["disk-nearly-full", "disk-full", "disk-nearly-full"]


def test_a_hard_link_is_counted_once_and_a_symlink_is_not_followed(watched: Bench, tmp_path: Path) -> None:
    post(watched)
    big = fill(watched, 6)
    big.with_name("again").hardlink_to(big)
    (tmp_path / "elsewhere").write_bytes(bytes(20 * MIB))
    big.with_name("there").symlink_to(tmp_path / "elsewhere")
    watched.disk_use.survey()
    assert summary(watched) == []


def test_without_a_quota_no_workspace_is_measured(bench: Bench, mocker: MockerFixture) -> None:
    used = mocker.spy(type(bench.host.workspaces), "used")
    post(bench)
    bench.disk_use.survey()
    assert used.call_count == 0
    assert bench.client.get("/readyz").json["parts"]["workspaces"] == "ok: no quota"


def test_on_a_file_system_with_quotas_no_user_is_refused(bench_of: BenchMaker, mocker: MockerFixture) -> None:
    mocker.patch("gateway.repositories.files.quotas.are_enforced", return_value=True)
    limit = mocker.patch("gateway.repositories.files.quotas.limit")
    bench = bench_of(FakeGpus(["A100-40GB"]), workspace_quota="10m")
    session = post(bench).json["session_id"]
    limit.assert_called_once_with(bench.settings.workspace_root, FIRST_UID, 10 * MIB)
    fill(bench, 11)
    bench.disk_use.survey()
    bench.client.delete(f"/sessions/{session}")
    assert post(bench).status_code == 201
    assert "kept by the file system" in bench.client.get("/readyz").json["parts"]["workspaces"]


def test_a_session_does_not_open_if_its_quota_cannot_be_set(
    bench_of: BenchMaker, mocker: MockerFixture
) -> None:
    mocker.patch("gateway.repositories.files.quotas.are_enforced", return_value=True)
    mocker.patch(
        "gateway.repositories.files.quotas.limit", side_effect=PermissionError(1, "Operation not permitted")
    )
    bench = bench_of(FakeGpus(["A100-40GB"]), workspace_quota="10m")
    refused = post(bench)
    assert (refused.status_code, refused.json["type"]) == (503, "/problems/workspace-refused")
    assert "--workspace-quota" in refused.json["detail"]
    assert bench.leftovers()["rows"] == []


def test_readyz_says_that_the_gateway_measures(watched: Bench) -> None:
    assert "watched" in watched.client.get("/readyz").json["parts"]["workspaces"]


def test_no_transaction_waits_for_the_file_system(watched: Bench, mocker: MockerFixture) -> None:
    """Whether it keeps quotas is asked before a transaction that may write begins."""
    depth, asked = 0, []
    begin = SqlDatabase.begin

    @contextmanager
    def counted(database: SqlDatabase) -> Iterator[SessionRows]:
        nonlocal depth
        with begin(database) as rows:
            depth += 1
            yield rows
            depth -= 1

    def are_enforced(_root: Path) -> bool:
        asked.append(depth)
        return False

    mocker.patch.object(SqlDatabase, "begin", counted)
    mocker.patch("gateway.repositories.files.quotas.are_enforced", are_enforced)
    assert post(watched).status_code == 201
    assert asked
    assert set(asked) == {0}
