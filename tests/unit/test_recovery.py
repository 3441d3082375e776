"""A database that is new, wrong or put back beside sessions and workspaces that stand."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from shutil import copy

import pytest
from click.testing import CliRunner

from gateway.app import leadership_of
from gateway.cli.database import recover
from gateway.database_url import DatabaseUrl
from gateway.domain.states import Status
from gateway.errors import DockerUnavailable, StartRefused
from gateway.repositories.sql import sqlite
from gateway.repositories.sql.database import SqlDatabase
from gateway.services.recovery import Recovery
from gateway.services.usage import UsageLog
from tests.conftest import Bench


def recovery(bench: Bench, database: SqlDatabase | None = None) -> Recovery:
    return Recovery(database or bench.database, bench.host, bench.pipes, bench.clock, UsageLog())


@pytest.fixture
def named(bench: Bench) -> Bench:
    """Its containers carry the id of its database, as Docker's do."""
    with bench.database.read() as rows:
        deployment = rows.deployment_id()
    bench.containers.deployment = lambda: deployment
    return bench


@pytest.fixture
def another(tmp_path: Path, empty_database: Path) -> SqlDatabase:
    copy(empty_database, tmp_path / "another.db")
    other = SqlDatabase(DatabaseUrl(tmp_path / "another.db"))
    with other.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE deployment SET deployment_id = 'another'")
    return other


def create(bench: Bench, user_id: str = "ann", profile: str = "1g.5gb") -> str:
    answer = bench.client.post("/sessions", json={"user_id": user_id, "mig_profile": profile})
    assert answer.status_code == 201, answer.json
    return str(answer.json["session_id"])


def test_a_database_that_records_the_sessions_is_served(named: Bench) -> None:
    create(named)
    recovery(named).require_own_sessions()


def test_an_empty_database_beside_sessions_of_another_is_refused(named: Bench, another: SqlDatabase) -> None:
    create(named, "ann")
    create(named, "bob")
    with pytest.raises(StartRefused, match=r"2 sessions \(of ann, bob\).*gateway restore FILE.*--network"):
        recovery(named, another).require_own_sessions()


def test_sessions_of_a_version_without_names_are_known_by_their_rows(
    bench: Bench, another: SqlDatabase
) -> None:
    create(bench)
    recovery(bench).require_own_sessions()
    with pytest.raises(StartRefused, match="does not know"):
        recovery(bench, another).require_own_sessions()


def test_a_docker_that_does_not_answer_keeps_nobody_from_starting(named: Bench) -> None:
    named.containers.fail("survivors", DockerUnavailable("It does not answer."))
    recovery(named).require_own_sessions()


def test_the_reaper_leaves_the_sessions_of_another_database_alone(named: Bench) -> None:
    id = create(named)
    named.containers.deployments[id] = "another"
    with named.database.begin() as rows:
        row = rows.live(id)
        row.close("deleted")  # type: ignore[arg-type]
        rows.end(row, named.clock.now)
    named.gateway.reaper.reconcile()
    assert [survivor.session_id for survivor in named.containers.survivors()] == [id]


def test_an_orphan_gives_back_the_slice_that_its_labels_name(named: Bench) -> None:
    id = create(named)
    with named.database.begin() as rows:
        row = rows.live(id)
        row.close("deleted")  # type: ignore[arg-type]
        rows.end(row, named.clock.now)
    named.gateway.reaper.reconcile()
    assert named.instances() == []
    assert named.containers.survivors() == []


def test_a_new_database_beside_workspaces_or_sessions_is_refused(named: Bench) -> None:
    recovery(named).require_nothing()
    create(named)
    with pytest.raises(StartRefused, match="1 session containers and the workspaces of 1 users") as refusal:
        recovery(named).require_nothing()
    assert "gateway migrate --new" in str(refusal.value)


def lose_since(bench: Bench, change: Callable[[], None]) -> None:
    """Take a backup, `change` things, and put the backup back."""
    assert bench.settings.db.path
    backup = bench.settings.db.path.with_suffix(".backup")
    sqlite.back_up(bench.settings.db.path, backup)
    change()
    bench.database.engine.dispose()
    for name in ("-wal", "-shm"):
        bench.settings.db.path.with_name(bench.settings.db.path.name + name).unlink(missing_ok=True)
    copy(backup, bench.settings.db.path)


def test_a_session_that_was_opened_since_the_backup_goes_on(named: Bench) -> None:
    create(named, "ann")
    opened: list[str] = []
    lose_since(named, lambda: opened.append(create(named, "bob", "3g.20gb")))
    found = recovery(named).recover()
    assert (found.adopted, found.lost, found.ended) == (["bob"], [], [])
    with named.database.read() as rows:
        row = rows.live(opened[0])
        assert rows.uids()["bob"] == named.containers.spec(opened[0]).request.uid
    assert (row.status, row.mig_profile, row.expires_at) == (
        Status.ACTIVE,
        "3g.20gb",
        named.containers.spec(opened[0]).request.expires_at,
    )
    before = named.leftovers()
    named.gateway.reaper.reconcile()
    assert named.leftovers() == before, "nothing of it is taken back"
    assert named.client.delete(f"/sessions/{opened[0]}").status_code == 204
    assert named.instances() == ["1g.5gb"]


def test_an_extension_since_the_backup_counts(named: Bench) -> None:
    id = create(named, "ann")

    def change() -> None:
        new.append(create(named, "bob"))
        for session_id in (id, *new):
            named.client.post(f"/sessions/{session_id}/extend", json={"minutes": 90})

    new: list[str] = []
    lose_since(named, change)
    recovery(named).recover()
    with named.database.read() as rows:
        assert [rows.live(each).lease for each in (id, *new)] == [timedelta(minutes=150)] * 2
        ends = [rows.live(each).time_left(named.clock()) for each in (id, *new)]
    assert ends == [timedelta(minutes=150)] * 2


def test_a_session_that_ended_since_the_backup_touches_nothing_of_the_next(
    named: Bench,
) -> None:
    id = create(named, "ann", "7g.40gb")

    def change() -> None:
        named.client.delete(f"/sessions/{id}")
        create(named, "bob", "7g.40gb")

    lose_since(named, change)
    found = recovery(named).recover()
    assert (found.ended, found.adopted) == (["ann"], ["bob"])
    named.gateway.reaper.reconcile()
    assert named.instances() == ["7g.40gb"]
    assert named.client.get(f"/sessions/{id}").status_code == 410


def test_a_session_without_a_route_cannot_be_adopted_and_is_taken_back(named: Bench) -> None:
    opened: list[str] = []
    lose_since(named, lambda: opened.append(create(named, "bob")))
    named.pipes.remove(opened[0])
    found = recovery(named).recover()
    assert (found.adopted, found.lost) == ([], ["bob"])
    named.gateway.reaper.reconcile()
    assert named.instances() == []


def test_the_owners_of_the_workspaces_decide_the_uids(named: Bench) -> None:
    def change() -> None:
        named.client.delete(f"/sessions/{create(named, 'bob')}")

    lose_since(named, change)
    uid = named.host.workspace_owners()["bob"]
    found = recovery(named).recover()
    assert found.owners == ["bob"]
    create(named, "carol")
    with named.database.read() as rows:
        uids = rows.uids()
    assert uids["bob"] == uid
    assert uids["carol"] != uid


def test_a_workspace_of_somebody_elses_uid_is_a_conflict_that_is_said(named: Bench) -> None:
    create(named, "ann")
    with named.database.begin() as rows:
        rows.assign_uid("ann", 20001)
        rows.assign_uid("eve", named.host.workspace_owners()["ann"])
    found = recovery(named).recover()
    assert found.owners == []
    assert found.conflicts == [
        f"ann's workspace belongs to uid {named.host.workspace_owners()['ann']}, which is eve's"
    ]


def test_a_database_is_not_recovered_while_a_gateway_uses_it(
    named: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_STATE_DIR", str(named.settings.state_dir))
    leadership = leadership_of(named.settings)
    assert leadership.acquire()
    try:
        done = CliRunner().invoke(recover, ["--db", str(named.settings.db)])
    finally:
        leadership.release()
    assert isinstance(done.exception, StartRefused)
    assert "A gateway still uses the database" in str(done.exception)
