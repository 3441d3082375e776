"""Which uid a new user gets: no account of the host has it, and nobody else's workspace belongs to it."""

import grp
import os
import pwd
from collections.abc import Callable

import pytest

from gateway.app import Parts
from gateway.doctor.checks import CheckResult, examine
from gateway.domain.uids import FIRST_UID, UidRange
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


def uid_of(bench: Bench, user_id: str) -> int:
    response = bench.client.post("/sessions", json={"user_id": user_id})
    assert response.status_code == 201, response.json
    return bench.containers.spec(response.json["session_id"]).request.uid


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """The host has an account `name` with this uid, as from a directory service."""
    accounts: dict[int, str] = {}
    known = pwd.getpwuid

    def getpwuid(uid: int) -> pwd.struct_passwd:
        if uid in accounts:
            return pwd.struct_passwd((accounts[uid], "x", uid, uid, "", "/", "/bin/sh"))
        return known(uid)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    return accounts.__setitem__


def doctor(bench: Bench) -> CheckResult:
    results = examine(
        bench.settings, Parts(bench.database, bench.host, bench.pipes, bench.notices, bench.clock)
    )
    return next(result for result in results if result.name == "uids")


def test_a_uid_that_an_account_of_the_host_has_is_left_out(
    bench: Bench, account: Callable[[int, str], None]
) -> None:
    account(FIRST_UID, "kim")
    account(FIRST_UID + 2, "lee")
    assert [uid_of(bench, user) for user in ("ann", "bob")] == [FIRST_UID + 1, FIRST_UID + 3]
    assert doctor(bench) == CheckResult("uids", True, "ok")


def test_a_uid_that_a_group_of_the_host_has_is_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getgrgid(gid: int) -> grp.struct_group:
        if gid == FIRST_UID:
            return grp.struct_group(("lab", "x", gid, []))
        raise KeyError(gid)

    monkeypatch.setattr(grp, "getgrgid", getgrgid)
    assert uid_of(bench, "ann") == FIRST_UID + 1


def test_keys_stored_before_the_first_session_fix_a_uid_by_the_same_rule(
    bench: Bench, public_key: str, account: Callable[[int, str], None]
) -> None:
    account(FIRST_UID, "kim")
    bench.client.put("/users/ann/keys", json={"ssh_public_keys": [public_key]})
    assert uid_of(bench, "ann") == FIRST_UID + 1


def test_an_account_that_was_made_after_the_user_is_reported_by_the_doctor(
    bench: Bench, account: Callable[[int, str], None]
) -> None:
    assert uid_of(bench, "ann") == FIRST_UID
    account(FIRST_UID, "kim")
    result = doctor(bench)
    assert not result.ok
    assert f"uid {FIRST_UID} of ann is also kim's on this host" in result.detail


def test_users_get_uids_of_the_range_and_a_full_range_is_reported(bench_of: BenchMaker) -> None:
    bench = bench_of(FakeGpus(["A100-40GB"]), uid_range=UidRange(70000, 70001))
    assert [uid_of(bench, user) for user in ("ann", "bob")] == [70000, 70001]
    response = bench.client.post("/sessions", json={"user_id": "eve"})
    assert response.status_code == 503
    assert "--uid-range" in response.json["detail"]


def test_a_workspace_that_stands_already_gives_its_user_the_uid_of_its_owner(bench: Bench) -> None:
    """As after the database was lost."""
    bench.settings.workspace_root.mkdir()
    for user, uid in {"ann": FIRST_UID + 7, "bob": FIRST_UID}.items():
        home = bench.settings.workspace_root / user
        home.mkdir(0o700)
        os.chown(home, uid, uid)
    assert uid_of(bench, "eve") == FIRST_UID + 1  # not bob's
    assert uid_of(bench, "ann") == FIRST_UID + 7
    assert uid_of(bench, "bob") == FIRST_UID


def test_no_user_becomes_root_or_a_service_by_a_directory_that_is_theirs(bench: Bench) -> None:
    bench.settings.workspace_root.mkdir()
    (bench.settings.workspace_root / "ann").mkdir()  # root's
    response = bench.client.post("/sessions", json={"user_id": "ann"})
    assert response.status_code == 503
    assert bench.host.workspace_owners() == {}


def test_a_workspace_of_another_uid_is_reported_by_the_doctor(bench: Bench) -> None:
    uid_of(bench, "ann")
    os.chown(bench.settings.workspace_root / "ann", 23456, 23456)
    assert "ann's workspace belongs to uid 23456" in doctor(bench).detail
