from typing import Any

import pytest

from gateway.domain.containers import Deviation
from gateway.domain.states import Reason
from gateway.errors import (
    ContainerFailed,
    DatabaseUnavailable,
    DockerUnavailable,
    DriverUnavailable,
    NetworkOpen,
    NetworkUnavailable,
    PipesUnavailable,
    SliceBusy,
)
from gateway.services.sessions import Sessions
from tests.conftest import NOTHING, Bench


def create(bench: Bench, user_id: str) -> dict[str, Any]:
    response = bench.client.post("/sessions", json={"user_id": user_id})
    assert response.status_code == 201
    session: dict[str, Any] = response.json
    return session


def test_live_sessions_are_listed_oldest_first(bench: Bench) -> None:
    ids = []
    for user_id in ("zoe", "adam", "mary"):
        ids.append(create(bench, user_id)["session_id"])
        bench.clock.advance(seconds=1)
    assert [session["session_id"] for session in bench.client.get("/sessions").json["sessions"]] == ids


def test_without_sessions_the_list_is_empty(bench: Bench) -> None:
    assert bench.client.get("/sessions").json == {"sessions": []}


def test_one_session_reads_as_it_was_created(bench: Bench) -> None:
    created = create(bench, "user123")
    del created["ssh_private_key"]
    assert bench.client.get(f"/sessions/{created['session_id']}").json == created


def test_the_known_hosts_line_has_the_routers_key_once_it_exists(bench: Bench) -> None:
    assert create(bench, "early")["ssh_known_hosts"] is None
    (bench.settings.piper_config.parent / "ssh_host_ed25519_key.pub").write_text(
        "ssh-ed25519 AAAA root@host\n"
    )
    assert create(bench, "late")["ssh_known_hosts"] == "ssh.gw ssh-ed25519 AAAA"


def test_the_known_hosts_have_a_line_for_each_of_the_routers_keys(bench: Bench) -> None:
    keys = bench.settings.piper_config.parent
    (keys / "ssh_host_ed25519_key.pub").write_text("ssh-ed25519 AAAA root@host\n")
    first = create(bench, "first")
    (keys / "ssh_host_rsa_key.pub").write_text("ssh-rsa BBBB root@host\n")
    (keys / "ssh_host_ecdsa_key.pub").write_text("ecdsa-sha2-nistp256 CCCC root@host\n")
    session = bench.client.get(f"/sessions/{first['session_id']}").json
    assert session is not None
    assert session["ssh_known_hosts"].splitlines() == [
        "ssh.gw ssh-ed25519 AAAA",
        "ssh.gw ecdsa-sha2-nistp256 CCCC",
        "ssh.gw ssh-rsa BBBB",
    ]


@pytest.mark.parametrize("method", ["get", "delete"])
def test_an_unknown_id_is_not_found(bench: Bench, method: str) -> None:
    response = getattr(bench.client, method)("/sessions/abc-123-def")
    assert response.status_code == 404
    assert response.json["type"] == "/problems/session-not-found"


def test_deleting_removes_every_part_and_keeps_a_record(bench: Bench) -> None:
    session = create(bench, "user123")
    response = bench.client.delete(f"/sessions/{session['session_id']}")
    assert (response.status_code, response.data) == (204, b"")
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize("method", ["get", "delete"])
def test_an_ended_session_is_a_410_with_the_reason(bench: Bench, method: str) -> None:
    session = create(bench, "user123")
    bench.client.delete(f"/sessions/{session['session_id']}")
    response = getattr(bench.client, method)(f"/sessions/{session['session_id']}")
    assert response.status_code == 410
    assert response.json["reason"] == "deleted"
    assert response.json["ended_at"] == f"{bench.clock.now:%Y-%m-%dT%H:%M:%SZ}"


def test_a_deletion_that_fails_is_accepted_and_completed_later(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.gpus.fail("destroy", SliceBusy("a monitor holds it"))
    response = bench.client.delete(f"/sessions/{session['session_id']}")
    assert response.status_code == 202
    assert response.json["status"] == "closing"
    assert bench.pipes.list() == []
    assert bench.containers.list() == []
    bench.gpus.fail("destroy", None)
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == "deleted"


def test_deleting_a_session_while_it_opens_leaves_nothing_behind(bench: Bench) -> None:
    responses = []

    def delete_meanwhile(container_id: str, address: str) -> None:
        [session] = bench.client.get("/sessions").json["sessions"]
        responses.append(bench.client.delete(f"/sessions/{session['session_id']}"))
        bench.reconciler.reconcile()

    bench.containers.wait_for_ssh = delete_meanwhile  # type: ignore[method-assign]
    assert bench.client.post("/sessions", json={"user_id": "user123"}).status_code == 410
    assert [response.status_code for response in responses] == [202]
    assert bench.leftovers() == NOTHING


def test_the_instance_stays_if_the_container_cannot_be_removed(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.containers.fail("remove", DockerUnavailable("no"))
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 202
    assert bench.instances() == ["1g.5gb"]


def test_container_and_instance_go_even_if_the_route_cannot_be_removed(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.pipes.fail("remove", PipesUnavailable("The pipe file is not valid YAML."))
    response = bench.client.delete(f"/sessions/{session['session_id']}")
    assert response.status_code == 202
    assert "YAML" in response.json["problem"]
    left = bench.leftovers()
    assert left["containers"] == left["instances"] == []
    assert left["pipes"] == left["rows"] == [session["session_id"]]
    bench.pipes.fail("remove", None)
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


def test_unknown_paths_and_methods_are_problems_too(bench: Bench) -> None:
    for response, status in ((bench.client.get("/nowhere"), 404), (bench.client.put("/sessions"), 405)):
        assert response.status_code == status
        assert response.content_type == "application/problem+json"


def test_an_unavailable_database_is_a_problem_without_sql(bench: Bench) -> None:
    assert bench.settings.db.path
    bench.settings.db.path.write_bytes(b"not a database at all" * 500)
    response = bench.client.get("/sessions")
    assert response.status_code == 503
    assert response.json["type"] == "/problems/database-unavailable"
    assert "SELECT" not in response.text
    assert str(bench.settings.db) not in response.text


def test_an_internal_error_does_not_reveal_its_details(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sessions, "list", lambda *_: 1 / 0)
    response = bench.client.get("/sessions")
    assert response.status_code == 500
    assert response.content_type == "application/problem+json"
    assert "division" not in response.text
    assert "Traceback" not in response.text


def test_expired_sessions_are_closed(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.clock.advance(minutes=59, seconds=59)
    bench.gateway.reaper.reap()
    assert len(bench.sessions.list()) == 1
    bench.clock.advance(seconds=1)
    bench.gateway.reaper.reap()
    assert bench.leftovers() == NOTHING
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == Reason.EXPIRED


def test_one_session_that_cannot_be_closed_does_not_stop_the_others(bench: Bench) -> None:
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


def test_the_history_is_deleted_after_its_days(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.client.delete(f"/sessions/{session['session_id']}")
    bench.clock.advance(days=29)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").status_code == 410
    bench.clock.advance(days=2)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").status_code == 404


def test_a_session_whose_user_ended_the_container_is_closed(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.containers.end(session["session_id"])
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == "user_exit"


def test_a_route_that_was_removed_by_hand_is_restored(bench: Bench) -> None:
    session = create(bench, "user123")
    published = bench.pipes.list()
    bench.pipes.remove(session["session_id"])
    bench.reconciler.reconcile()
    assert bench.pipes.list() == published


def test_no_session_is_closed_while_docker_does_not_answer(bench: Bench) -> None:
    create(bench, "user123")
    before = bench.leftovers()
    bench.containers.fail("list", DockerUnavailable("no"))
    bench.reconciler.reconcile()
    bench.containers.fail("list", None)
    assert bench.leftovers() == before


def test_a_part_that_does_not_answer_does_not_stop_the_repair_of_others(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.network.failure = NetworkUnavailable("The firewall cannot be asked.")
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


def test_a_session_that_a_restart_of_docker_ended_has_that_reason(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.clock.advance(minutes=1)
    bench.containers.restart(bench.clock.now)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == "restarted"
    assert bench.leftovers() == NOTHING


def test_leftovers_without_a_row_are_removed(bench: Bench) -> None:
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


@pytest.mark.parametrize("reason", [Reason.OUT_OF_MEMORY, Reason.STOPPED, Reason.KILLED])
def test_a_session_that_somebody_ended_from_outside_has_that_reason(bench: Bench, reason: Reason) -> None:
    session = create(bench, "user123")
    bench.containers.end(session["session_id"], reason)
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == reason
    assert bench.leftovers() == NOTHING


def events(bench: Bench, session: dict[str, Any]) -> list[tuple[str, str]]:
    found = bench.client.get(f"/sessions/{session['session_id']}/events").json["events"]
    return [(event["what"], event["detail"]) for event in found if event["what"] in ("problem", "recovered")]


def test_a_session_that_somebody_connected_elsewhere_is_marked_and_repaired(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.containers.deviate(session["session_id"], Deviation("it is connected to bridge", True))
    bench.reconciler.reconcile()
    assert (
        bench.client.get(f"/sessions/{session['session_id']}").json["problem"] == "It is connected to bridge."
    )
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["problem"] is None
    assert events(bench, session) == [("problem", "It is connected to bridge."), ("recovered", "")]


def test_what_cannot_be_repaired_stays_marked(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.containers.deviate(
        session["session_id"], Deviation("it is paused"), Deviation("its address is another", True)
    )
    bench.reconciler.reconcile()
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["problem"] == "It is paused."
    assert "repair" in bench.containers.calls


def test_a_repair_that_fails_keeps_none_of_the_others_from_it(bench: Bench) -> None:
    sessions = [create(bench, user) for user in ("user123", "user456")]
    for session in sessions:
        bench.containers.deviate(session["session_id"], Deviation("it is disconnected", True))
    bench.containers.fail("repair", ContainerFailed("Docker refused."))
    bench.reconciler.reconcile()
    assert bench.containers.calls.count("repair") == 2
    assert {one["problem"] for one in bench.client.get("/sessions").json["sessions"]} == {
        "It is disconnected."
    }


def test_live_sessions_in_an_open_network_are_marked(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.network.failure = NetworkOpen("The sessions' network is open.")
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["problem"] == str(
        bench.network.failure
    )
    bench.network.failure = None
    bench.reconciler.reconcile()
    assert events(bench, session) == [("problem", "The sessions' network is open."), ("recovered", "")]


def test_a_mark_stays_while_docker_does_not_answer(bench: Bench) -> None:
    session = create(bench, "user123")
    bench.containers.deviate(session["session_id"], Deviation("it is paused"))
    bench.reconciler.reconcile()
    bench.containers.fail("list", DockerUnavailable("no"))
    bench.reconciler.reconcile()
    assert events(bench, session) == [("problem", "It is paused.")]
