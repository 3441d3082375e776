"""A database that is lost, empty, wrong or put back, beside sessions that run."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Gateway, eventually, free_port, remove_containers


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    made = Gateway(tmp_path)
    assert made.run("migrate").returncode == 0
    made.start("router")
    made.serve()
    eventually(lambda: (tmp_path / "sshpiper/ssh_host_ed25519_key.pub").exists())
    yield made
    for name in list(made.processes):
        made.kill(name)
    remove_containers(tmp_path)


def refusal(gateway: Gateway, *command: str, **environment: str) -> str:
    done = gateway.run(*command, **environment)
    assert done.returncode != 0, done.stdout
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def test_a_second_start_with_an_empty_database_ends_nobodys_session(gateway: Gateway, tmp_path: Path) -> None:
    session = gateway.create("user123", mig_profile="3g.20gb")
    elsewhere = str(tmp_path / "elsewhere/sessions.db")
    said = refusal(gateway, "migrate", GATEWAY_DB=elsewhere)
    assert "1 session containers and the workspaces of 1 users" in said
    assert "gateway restore FILE" in said
    assert gateway.run("migrate", "--new", GATEWAY_DB=elsewhere).returncode == 0
    said = refusal(gateway, "serve", GATEWAY_DB=elsewhere, GATEWAY_PORT=str(free_port()))
    assert "1 sessions (of user123)" in said
    assert gateway.in_session("user123", "id -un").strip() == "user123"
    assert gateway.get(f"/sessions/{session['session_id']}")["status"] == "active"
    assert gateway.delete(session["session_id"]).status_code == 204


def test_a_backup_that_is_put_back_after_a_crash_keeps_sessions_homes_and_slices(
    gateway: Gateway, tmp_path: Path
) -> None:
    ended = gateway.create("ended", mig_profile="2g.10gb")
    stays = gateway.create("stays", mig_profile="1g.5gb")
    backup = tmp_path / "sessions.backup"
    assert gateway.run("backup", str(backup)).returncode == 0
    assert gateway.delete(ended["session_id"]).status_code == 204
    opened = gateway.create("opened", mig_profile="2g.10gb")
    gateway.in_session("opened", "echo kept > ~/file")
    uids = {user: (tmp_path / "workspaces" / user).stat().st_uid for user in ("stays", "opened", "ended")}
    assert "stop the gateway first" in refusal(gateway, "restore", str(backup))
    gateway.kill("serve")
    assert (tmp_path / "state/sessions.db-wal").exists(), "as after a crash"

    done = gateway.run("restore", str(backup))
    assert done.returncode == 0, done.stderr
    assert "uid taken from the workspace: opened" in done.stdout
    assert "session found running and recorded again: opened" in done.stdout
    assert "session ended since the backup: ended" in done.stdout
    [kept] = (tmp_path / "state").glob("sessions.db.*.replaced")
    with sqlite3.connect(kept) as before:
        assert ("opened",) in before.execute("SELECT user_id FROM sessions").fetchall()

    gateway.serve()
    live = {session["user_id"]: session for session in gateway.get("/sessions")["sessions"]}
    assert sorted(live) == ["opened", "stays"]
    assert live["opened"]["gpu_uuid"] == opened["gpu_uuid"]
    assert live["opened"]["expires_at"] == opened["expires_at"]
    assert gateway.in_session("opened", "cat ~/file").strip() == "kept"
    assert gateway.in_session("stays", "id -un").strip() == "stays"
    assert gateway.run("doctor").stdout.count("left alone") == 0
    gateway.create("late", mig_profile="1g.5gb")
    assert (tmp_path / "workspaces/late").stat().st_uid not in uids.values()
    for user in ("opened", "stays", "late"):
        [session] = [one for one in gateway.get("/sessions")["sessions"] if one["user_id"] == user]
        assert gateway.delete(session["session_id"]).status_code == 204
    assert [gpu["instances"] for gpu in gateway.get("/gpus")["gpus"]] == [[], []]
    again = gateway.create("ended")
    assert (tmp_path / "workspaces/ended").stat().st_uid == uids["ended"]
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
    for user in ("ann", "bob"):
        gateway.delete(gateway.create(user)["session_id"])
    uids = {user: (tmp_path / "workspaces" / user).stat().st_uid for user in ("ann", "bob")}
    gateway.kill("serve")
    shutil.rmtree(tmp_path / "state")
    assert "the workspaces of 2 users" in refusal(gateway, "migrate")
    done = gateway.run("migrate", "--new")
    assert "uid taken from the workspace: ann" in done.stdout
    gateway.serve()
    bob, carol = gateway.create("bob"), gateway.create("carol")
    assert gateway.in_session("bob", "id -u").strip() == str(uids["bob"])
    assert (tmp_path / "workspaces/carol").stat().st_uid not in uids.values()
    for session in (bob, carol):
        gateway.delete(session["session_id"])
