"""Sessions that open from the line, and what goes wrong then."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.domain.ssh_keys import make_pair
from gateway.errors import ContainerFailed, DockerUnavailable, DriverUnavailable, PlacementTaken
from gateway.failpoints import arm
from gateway.repositories.sql.waiting_rows import WaitingRows
from gateway.services.queue import Queue
from gateway.services.sessions import Sessions
from tests.api.waiting_line.conftest import end, events, moved, opened, places, read, serve, waiting
from tests.conftest import NOTHING, Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


def test_the_id_of_the_request_becomes_the_sessions(full: Bench) -> None:
    request = waiting(full, "ben", ttl_minutes=30)
    assert read(full, request).json["status"] == "waiting"
    full.clock.advance(minutes=60)
    serve(full)
    session = read(full, request).json
    assert (session["status"], session["session_id"]) == ("active", request["session_id"])
    assert session["expires_at"] == moved(session["opened_at"], minutes=30)
    assert full.client.get("/queue").json == {"requests": []}
    assert [pipe.username for pipe in full.pipes.list()] == ["ben"]
    made = events(full, request)
    assert made == ["waiting", "created", "opened"]


def test_a_request_whose_session_opens_while_it_is_read_is_shown_as_it_was(
    full: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = waiting(full, "ben", ttl_minutes=30)
    full.clock.advance(minutes=60)
    found_in_line = WaitingRows.waiting

    def read_then_opened(rows: WaitingRows, session_id: str) -> Any:
        found = found_in_line(rows, session_id)
        monkeypatch.undo()
        serve(full)
        return found

    monkeypatch.setattr(WaitingRows, "waiting", read_then_opened)
    shown = read(full, request).json
    assert (shown["status"], shown["position"]) == ("waiting", 1)
    shown = read(full, request).json
    assert (shown["status"], "position" in shown) == ("active", False)


def test_a_request_that_is_back_in_line_while_it_is_deleted_leaves_the_line(
    full: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session was being opened when the deletion began, and failed then."""
    ben = waiting(full, "ben")

    def opens_by_now(*_: Any) -> bool:
        monkeypatch.undo()
        return False

    monkeypatch.setattr(Queue, "leave", opens_by_now)
    end(full, ben)
    assert (read(full, ben).status_code, places(full)) == (410, [])


def test_a_request_is_deleted_while_its_failed_session_is_undone(full: Bench) -> None:
    ben = waiting(full, "ben")
    full.clock.advance(minutes=60)
    full.containers.fail("wait_for_ssh", ContainerFailed("no sshd"))
    full.gateway.reaper.reap()
    full.containers.fail("remove", DockerUnavailable("not now"))
    serve(full)
    assert read(full, ben).json["status"] == "closing"
    assert full.client.delete(f"/sessions/{ben['session_id']}").status_code == 202
    for verb in ("wait_for_ssh", "remove"):
        full.containers.fail(verb, None)
    full.reconciler.reconcile()
    assert (read(full, ben).status_code, places(full)) == (410, [])


def test_a_session_that_another_thread_finishes_closing_is_closed(
    full: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    [ann] = full.client.get("/sessions").json["sessions"]
    close = Sessions.close

    def closed_by_another(*given: Any, **named: Any) -> bool:
        assert close(*given, **named)
        return False

    monkeypatch.setattr(Sessions, "close", closed_by_another)
    end(full, ann)


def test_an_early_end_serves_the_line_at_once(full: Bench) -> None:
    ben, cem = waiting(full, "ben"), waiting(full, "cem")
    end(full, full.client.get("/sessions").json["sessions"][0])
    serve(full)
    assert read(full, ben).json["status"] == "active"
    again = read(full, cem).json
    assert (again["status"], again["position"]) == ("waiting", 1)
    assert again["promised_at"] < cem["promised_at"]


def test_given_keys_open_the_session_and_stored_ones_as_they_are_then(full: Bench) -> None:
    first, second = make_pair().public, make_pair().public
    full.client.put("/users/ben/keys", json={"ssh_public_keys": [first]})
    ben = waiting(full, "ben")
    assert "ssh_private_key" not in ben
    full.client.put("/users/ben/keys", json={"ssh_public_keys": [second]})
    full.clock.advance(minutes=60)
    serve(full)
    [pipe] = full.pipes.list()
    assert pipe.public_keys[0].split()[:2] == second.split()[:2]


@pytest.mark.parametrize("failure", [ContainerFailed("no sshd"), DriverUnavailable("hangs")])
def test_a_failure_to_open_loses_no_place(full: Bench, failure: Exception) -> None:
    ben, cem = waiting(full, "ben"), waiting(full, "cem")
    full.clock.advance(minutes=60)
    full.containers.fail("run", failure)
    serve(full)
    again = read(full, ben).json
    assert (again["status"], again["position"]) == ("waiting", 1)
    assert full.leftovers() == NOTHING
    full.containers.fail("run", None)
    serve(full)
    assert read(full, ben).json["status"] == "waiting"
    full.clock.advance(seconds=6)
    serve(full)
    assert read(full, ben).json["status"] == "active"
    assert read(full, cem).json["position"] == 1


def test_a_foreign_instance_in_the_promised_slice_delays_the_request_only_as_long(
    bench_of: BenchMaker,
) -> None:
    gpus = FakeGpus(["A100-40GB"])
    bench = bench_of(gpus)
    ann = opened(bench, "ann", ttl_minutes=60)
    ben = waiting(bench, "ben")
    end(bench, ann)
    gpu = gpus.list()[0]
    other = gpus.another_program()
    profile = gpu.profile("1g.5gb")
    assert profile
    made = other.create(gpu.uuid, "1g.5gb", profile.placements[0])
    serve(bench)
    assert read(bench, ben).json["promised_at"] is None
    other.destroy(gpu.uuid, "1g.5gb", made.placement, made.mig_uuid)
    serve(bench)
    assert read(bench, ben).json["status"] == "active"


def test_a_request_that_can_never_be_opened_ends_after_thirty_attempts(full: Bench) -> None:
    ben = waiting(full, "ben", 10080)
    full.clock.advance(minutes=60)
    full.containers.fail("run", ContainerFailed("no sshd"))
    for _ in range(31):
        serve(full)
        full.clock.advance(minutes=6)
    gone = read(full, ben)
    assert (gone.status_code, gone.json["reason"]) == (410, "failed")


def test_a_request_whose_opener_died_is_in_line_again(full: Bench) -> None:
    """As after kill -9 between the commit and the container: the row is pending, and nobody has the claim."""
    ben = waiting(full, "ben")
    full.clock.advance(minutes=60)
    full.gateway.reaper.reap()
    arm("after-intent-commit=error")
    full.containers.fail("remove", DriverUnavailable("the process is gone, so nothing is undone"))
    serve(full)
    assert read(full, ben).json["status"] == "closing"
    full.containers.fail("remove", None)
    full.reconciler.reconcile()
    assert read(full, ben).json["status"] == "waiting"
    assert full.leftovers() == NOTHING
    full.clock.advance(minutes=6)
    serve(full)
    assert read(full, ben).json["status"] == "active"


def test_who_waited_and_does_not_log_in_loses_the_session(full: Bench) -> None:
    ben, cem = waiting(full, "ben"), waiting(full, "cem")
    full.clock.advance(minutes=60)
    serve(full)
    full.clock.advance(minutes=14)
    assert full.gateway.queue.unclaimed() == []
    full.clock.advance(minutes=1)
    assert full.gateway.queue.unclaimed() == [ben["session_id"]]
    full.gateway.queue.claim(ben["session_id"])
    gone = read(full, ben)
    assert (gone.status_code, gone.json["reason"]) == (410, "unclaimed")
    serve(full)
    assert read(full, cem).json["status"] == "active"


def test_who_waited_and_logs_in_keeps_the_session(full: Bench) -> None:
    ben = waiting(full, "ben")
    full.clock.advance(minutes=60)
    serve(full)
    full.containers.used.add(read(full, ben).json["container_id"])
    full.clock.advance(minutes=15)
    full.gateway.queue.claim(ben["session_id"])
    assert full.gateway.queue.unclaimed() == []
    assert read(full, ben).json["status"] == "active"


def test_who_did_not_wait_keeps_an_unused_session(full: Bench) -> None:
    full.clock.advance(minutes=30)
    assert full.gateway.queue.unclaimed() == []


def test_the_thread_opens_what_an_end_makes_room_for(full: Bench) -> None:
    ben = waiting(full, "ben")
    with full.gateway.opener.working():
        end(full, full.client.get("/sessions").json["sessions"][0])
        deadline = time.monotonic() + 10
        while read(full, ben).json["status"] != "active" and time.monotonic() < deadline:
            time.sleep(0.02)
    assert read(full, ben).json["status"] == "active"


def test_a_round_without_a_change_plans_nothing(full: Bench) -> None:
    waiting(full, "ben")
    with ThreadPoolExecutor(1) as pool:
        full.gateway.opener.round(pool, 100.0)
        full.gpus.fail("list", DriverUnavailable("asked although nothing changed"))
        full.gateway.opener.round(pool, 101.0)
        full.gpus.fail("list", None)


def test_a_placement_that_another_program_takes_first_loses_no_place(full: Bench) -> None:
    ben = waiting(full, "ben")
    full.clock.advance(minutes=60)
    full.gpus.fail("create", PlacementTaken("somebody was faster"))
    serve(full)
    full.gpus.fail("create", None)
    full.clock.advance(seconds=6)
    serve(full)
    assert read(full, ben).json["status"] == "active"
