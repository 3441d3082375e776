from typing import Any

import pytest

from gateway.domain.models import Reason
from gateway.errors import (
    DatabaseUnavailable,
    DockerUnavailable,
    DriverUnavailable,
    NetworkUnavailable,
    PipesUnavailable,
    SliceBusy,
)
from gateway.services.sessions import Sessions
from tests.conftest import NOTHING, Bench


def create(bench: Bench, user_id: str) -> dict[str, Any]:
    answer = bench.client.post("/sessions", json={"user_id": user_id})
    assert answer.status_code == 201
    session: dict[str, Any] = answer.json
    return session


def test_live_sessions_are_listed_oldest_first(bench: Bench) -> None:
    ids = []
    for user_id in ("zoe", "adam", "mary"):
        ids.append(create(bench, user_id)["session_id"])
        bench.clock.advance(seconds=1)
    assert [session["session_id"] for session in bench.client.get("/sessions").json["sessions"]] == ids


def test_no_sessions_is_an_empty_list(bench: Bench) -> None:
    assert bench.client.get("/sessions").json == {"sessions": []}


def test_one_session_reads_as_it_was_created(bench: Bench) -> None:
    created = create(bench, "user123")
    del created["ssh_private_key"]
    assert bench.client.get(f"/sessions/{created['session_id']}").json == created


def test_the_known_hosts_line_carries_the_routers_key_once_it_is_made(bench: Bench) -> None:
    assert create(bench, "early")["ssh_known_hosts"] is None
    (bench.settings.piper_config.parent / "ssh_host_ed25519_key.pub").write_text(
        "ssh-ed25519 AAAA root@host\n"
    )
    assert create(bench, "late")["ssh_known_hosts"] == "ssh.gw ssh-ed25519 AAAA"


@pytest.mark.parametrize("method", ["get", "delete"])
def test_an_id_that_never_was_is_not_found(bench: Bench, method: str) -> None:
    answer = getattr(bench.client, method)("/sessions/abc-123-def")
    assert answer.status_code == 404
    assert answer.json["type"] == "/problems/session-not-found"


def test_deleting_takes_everything_back_and_keeps_a_record(bench: Bench) -> None:
    session = create(bench, "user123")
    answer = bench.client.delete(f"/sessions/{session['session_id']}")
    assert (answer.status_code, answer.data) == (204, b"")
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize("method", ["get", "delete"])
def test_a_session_that_has_ended_is_gone_and_says_why(bench: Bench, method: str) -> None:
    session = create(bench, "user123")
    bench.client.delete(f"/sessions/{session['session_id']}")
    answer = getattr(bench.client, method)(f"/sessions/{session['session_id']}")
    assert answer.status_code == 410
    assert answer.json["reason"] == "deleted"
    assert answer.json["ended_at"] == f"{bench.clock.now:%Y-%m-%dT%H:%M:%SZ}"


def test_a_deletion_that_must_be_tried_again_is_accepted_and_finished_later(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.gpus.fail("destroy", SliceBusy("a monitor holds it"))
    answer = bench.client.delete(f"/sessions/{session['session_id']}")
    assert answer.status_code == 202
    assert answer.json["status"] == "closing"
    assert bench.pipes.list() == []
    assert bench.containers.list() == []
    bench.gpus.fail("destroy", None)
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == "deleted"


def test_deleting_a_session_that_is_still_being_opened_leaves_nothing_of_it(bench: Bench) -> None:
    answers = []

    def delete_meanwhile(container_id: str, address: str) -> None:
        [session] = bench.client.get("/sessions").json["sessions"]
        answers.append(bench.client.delete(f"/sessions/{session['session_id']}"))
        bench.reconciler.reconcile()

    bench.containers.wait_for_ssh = delete_meanwhile  # type: ignore[method-assign]
    assert bench.client.post("/sessions", json={"user_id": "user123"}).status_code == 410
    assert [answer.status_code for answer in answers] == [202]
    assert bench.leftovers() == NOTHING


def test_the_slice_stays_when_the_container_cannot_be_removed(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.containers.fail("remove", DockerUnavailable("no"))
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 202
    assert bench.instances() == ["1g.5gb"]


def test_a_route_that_cannot_be_taken_away_keeps_neither_container_nor_slice(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.pipes.fail("remove", PipesUnavailable("The pipe file is not valid YAML."))
    answer = bench.client.delete(f"/sessions/{session['session_id']}")
    assert answer.status_code == 202
    assert "YAML" in answer.json["problem"]
    left = bench.leftovers()
    assert left["containers"] == left["instances"] == []
    assert left["pipes"] == left["rows"] == [session["session_id"]]
    bench.pipes.fail("remove", None)
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


def test_unknown_paths_and_methods_are_problems_too(bench: Bench) -> None:
    for answer, status in ((bench.client.get("/nowhere"), 404), (bench.client.put("/sessions"), 405)):
        assert answer.status_code == status
        assert answer.content_type == "application/problem+json"


def test_a_database_out_of_reach_is_a_problem_without_sql(bench: Bench) -> None:
    assert bench.settings.db.path
    bench.settings.db.path.write_bytes(b"not a database at all" * 500)
    answer = bench.client.get("/sessions")
    assert answer.status_code == 503
    assert answer.json["type"] == "/problems/database-unavailable"
    assert "SELECT" not in answer.text
    assert str(bench.settings.db) not in answer.text


def test_a_defect_is_told_without_its_insides(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sessions, "list", lambda *_: 1 / 0)
    answer = bench.client.get("/sessions")
    assert answer.status_code == 500
    assert answer.content_type == "application/problem+json"
    assert "division" not in answer.text
    assert "Traceback" not in answer.text


def test_expired_sessions_are_taken_back(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.clock.advance(minutes=59, seconds=59)
    bench.gateway.reaper.reap()
    assert len(bench.sessions.list()) == 1
    bench.clock.advance(seconds=1)
    bench.gateway.reaper.reap()
    assert bench.leftovers() == NOTHING
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == Reason.EXPIRED


def test_one_session_that_cannot_be_closed_does_not_keep_the_others(bench: Bench) -> None:
    for user_id in ("a", "b", "c"):
        create(bench, user_id)
    bench.clock.advance(hours=2)
    remove = bench.containers.remove
    stuck = bench.sessions.list()[0].id

    def stubborn(session_id: str) -> None:
        if session_id == stuck:
            raise DatabaseUnavailable("no")
        remove(session_id)

    bench.containers.remove = stubborn  # type: ignore[method-assign]
    bench.gateway.reaper.reap()
    assert [session.id for session in bench.sessions.list()] == [stuck]


def test_the_history_is_forgotten_after_its_days(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.client.delete(f"/sessions/{session['session_id']}")
    bench.clock.advance(days=29)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").status_code == 410
    bench.clock.advance(days=2)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").status_code == 404


def test_a_session_whose_user_ended_the_container_is_taken_back(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.containers.end(session["session_id"])
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == "user_exit"


def test_a_route_that_somebody_removed_is_restored(bench: Bench) -> None:
    session = create(bench, "user123")
    published = bench.pipes.list()
    bench.pipes.remove(session["session_id"])
    bench.reconciler.reconcile()
    assert bench.pipes.list() == published


def test_when_docker_cannot_be_looked_at_nothing_is_taken_back(bench: Bench) -> None:
    create(bench, "user123")
    before = bench.leftovers()
    bench.containers.fail("list", DockerUnavailable("no"))
    bench.reconciler.reconcile()
    bench.containers.fail("list", None)
    assert bench.leftovers() == before


def test_a_part_that_is_out_of_reach_keeps_no_other_from_being_put_right(bench: Bench) -> None:
    bench.network.failure = NetworkUnavailable("The firewall cannot be asked.")
    session = create(bench, "user123")
    bench.pipes.remove(session["session_id"])
    bench.containers.fail("list", DockerUnavailable("no"))
    bench.reconciler.reconcile()
    assert [pipe.session_id for pipe in bench.pipes.list()] == [session["session_id"]]
    bench.gpus.fail("list", DriverUnavailable("no"))
    bench.containers.fail("list", None)
    bench.containers.end(session["session_id"])
    bench.reconciler.reconcile()
    bench.gpus.fail("list", None)
    assert bench.leftovers()["rows"] == bench.leftovers()["containers"] == []


def test_a_session_that_did_not_live_through_a_restart_of_docker_says_so(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.clock.advance(minutes=1)
    bench.containers.restart(bench.clock.now)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == "restarted"
    assert bench.leftovers() == NOTHING


def test_what_is_left_of_a_session_without_a_row_is_removed(bench: Bench) -> None:
    session = create(bench, "user123")
    with bench.database.begin() as rows:
        row = rows.get(session["session_id"])
        assert row is not None
        assert row.gpu
        assert row.placement
        row.close(Reason.FAILED)
        rows.end(row, bench.clock.now)
    bench.gpus.destroy(row.gpu, row.mig_profile, row.placement)
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING
