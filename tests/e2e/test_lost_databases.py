"""A database that is lost, empty, wrong or put back, beside sessions that run."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import own
from tests.whole_gateway import Gateway, free_port, running

USER, ENDED, STAYS, OPENED, LATE, ANN, BOB, CAROL = map(
    own.user, ("user123", "ended", "stays", "opened", "late", "ann", "bob", "carol")
)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(Gateway(tmp_path)) as gateway:
        yield gateway


def refusal(gateway: Gateway, *command: str, **environment: str) -> str:
    done = gateway.run(*command, **environment)
    assert done.returncode != 0, done.stdout
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_a_second_start_with_an_empty_database_ends_nobodys_session(gateway: Gateway, tmp_path: Path) -> None:
    session = gateway.create(USER, mig_profile="3g.20gb")
    elsewhere = str(tmp_path / "elsewhere/sessions.db")
    said = refusal(gateway, "migrate", GATEWAY_DB=elsewhere)
    assert "1 session containers and the workspaces of 1 users" in said
    assert "gateway restore FILE" in said
    assert gateway.run("migrate", "--new", GATEWAY_DB=elsewhere).returncode == 0
    said = refusal(gateway, "serve", GATEWAY_DB=elsewhere, GATEWAY_PORT=str(free_port()))
    assert f"1 sessions (of {USER})" in said
    assert gateway.in_session(USER, "id -un").strip() == USER
    assert gateway.get(f"/sessions/{session['session_id']}")["status"] == "active"
    assert gateway.delete(session["session_id"]).status_code == 204


def test_a_backup_that_is_put_back_after_a_crash_keeps_sessions_homes_and_slices(
    gateway: Gateway, tmp_path: Path
) -> None:
    ended = gateway.create(ENDED, mig_profile="2g.10gb")
    stays = gateway.create(STAYS, mig_profile="1g.5gb")
    backup = tmp_path / "sessions.backup"
    assert gateway.run("backup", str(backup)).returncode == 0
    assert gateway.delete(ended["session_id"]).status_code == 204
    opened = gateway.create(OPENED, mig_profile="2g.10gb")
    gateway.in_session(OPENED, "echo kept > ~/file")
    uids = {user: (tmp_path / "workspaces" / user).stat().st_uid for user in (STAYS, OPENED, ENDED)}
    assert "stop the gateway first" in refusal(gateway, "restore", str(backup))
    gateway.kill("serve")
    assert (tmp_path / "state/sessions.db-wal").exists(), "as after a crash"

    done = gateway.run("restore", str(backup))
    assert done.returncode == 0, done.stderr
    assert f"uid read from the workspace: {OPENED}" in done.stdout
    assert f"running session recorded again: {OPENED}" in done.stdout
    assert f"session that ended after the backup: {ENDED}" in done.stdout
    [kept] = (tmp_path / "state").glob("sessions.db.*.replaced")
    with sqlite3.connect(kept) as before:
        assert (OPENED,) in before.execute("SELECT user_id FROM sessions").fetchall()

    gateway.serve()
    live = {session["user_id"]: session for session in gateway.get("/sessions")["sessions"]}
    assert sorted(live) == [OPENED, STAYS]
    assert live[OPENED]["gpu_uuid"] == opened["gpu_uuid"]
    assert live[OPENED]["expires_at"] == opened["expires_at"]
    assert gateway.in_session(OPENED, "cat ~/file").strip() == "kept"
    assert gateway.in_session(STAYS, "id -un").strip() == STAYS
    assert gateway.run("doctor").stdout.count("left alone") == 0
    gateway.create(LATE, mig_profile="1g.5gb")
    assert (tmp_path / "workspaces" / LATE).stat().st_uid not in uids.values()
    for user in (OPENED, STAYS, LATE):
        [session] = [one for one in gateway.get("/sessions")["sessions"] if one["user_id"] == user]
        assert gateway.delete(session["session_id"]).status_code == 204
    assert [gpu["instances"] for gpu in gateway.get("/gpus")["gpus"]] == [[], []]
    again = gateway.create(ENDED)
    assert (tmp_path / "workspaces" / ENDED).stat().st_uid == uids[ENDED]
    gateway.delete(again["session_id"])
    assert stays["session_id"] != again["session_id"]


@pytest.mark.parametrize("content", [b"", b"not a database at all", b"SQLite format 3\0" + bytes(4096)])
def test_a_damaged_backup_changes_nothing(gateway: Gateway, tmp_path: Path, content: bytes) -> None:
    gateway.kill("serve")
    damaged = tmp_path / "damaged.backup"
    damaged.write_bytes(content)
    before = (tmp_path / "state/sessions.db").read_bytes()
    assert "is not a database of the gateway" in refusal(gateway, "restore", str(damaged))
    assert "is not a file" in refusal(gateway, "restore", str(tmp_path / "nothing"))
    assert (tmp_path / "state/sessions.db").read_bytes() == before


def test_a_lost_database_gives_every_user_the_uid_of_the_workspace(gateway: Gateway, tmp_path: Path) -> None:
    for user in (ANN, BOB):
        gateway.delete(gateway.create(user)["session_id"])
    uids = {user: (tmp_path / "workspaces" / user).stat().st_uid for user in (ANN, BOB)}
    gateway.kill("serve")
    shutil.rmtree(tmp_path / "state")
    assert "the workspaces of 2 users" in refusal(gateway, "migrate")
    done = gateway.run("migrate", "--new")
    assert f"uid read from the workspace: {ANN}" in done.stdout
    gateway.serve()
    bob, carol = gateway.create(BOB), gateway.create(CAROL)
    assert gateway.in_session(BOB, "id -u").strip() == str(uids[BOB])
    assert (tmp_path / "workspaces" / CAROL).stat().st_uid not in uids.values()
    for session in (bob, carol):
        gateway.delete(session["session_id"])
