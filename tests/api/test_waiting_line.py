"""The waiting line over the API: joining it, promises, sessions that open from it, and leaving it."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from gateway.domain.audit import REAPER, acting
from gateway.domain.notice import NoticeState
from gateway.domain.permissions import Role
from gateway.domain.ssh_keys import make_pair
from gateway.errors import ContainerFailed, DockerUnavailable, DriverUnavailable, PlacementTaken
from gateway.failpoints import arm
from gateway.repositories.sql.waiting_rows import WaitingRows
from gateway.services.queue import Queue
from gateway.services.sessions import Sessions
from gateway.services.tokens import Tokens
from tests.conftest import NOTHING, Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


def ask(bench: Bench, user: str, wait: int = 240, **body: Any) -> Any:
    given = {"user_id": user, "mig_profile": "7g.40gb", "wait_minutes": wait, **body}
    return bench.client.post("/sessions", json=given)


def opened(bench: Bench, user: str, **body: Any) -> Any:
    answer = ask(bench, user, 0, **body)
    assert answer.status_code == 201, answer.json
    return answer.json


def waiting(bench: Bench, user: str, wait: int = 240, **body: Any) -> Any:
    answer = ask(bench, user, wait, **body)
    assert answer.status_code == 202, answer.json
    return answer.json


def serve(bench: Bench) -> None:
    """One round of the reaper and of the line."""
    bench.gateway.reaper.reap()
    with acting(REAPER):
        for session_id in bench.gateway.queue.serve():
            bench.gateway.queue.open(session_id)


def read(bench: Bench, session: Any) -> Any:
    return bench.client.get(f"/sessions/{session['session_id']}")


def end(bench: Bench, session: Any) -> None:
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 204


def moved(at: str, **delta: float) -> str:
    return f"{datetime.fromisoformat(at) + timedelta(**delta):%Y-%m-%dT%H:%M:%SZ}"


def events(bench: Bench, session: Any) -> list[str]:
    found = bench.client.get(f"/sessions/{session['session_id']}/events").json["events"]
    return [event["what"] for event in found]


@pytest.fixture
def full(bench: Bench) -> Bench:
    """Its only GPU is ann's for an hour."""
    opened(bench, "ann", ttl_minutes=60)
    return bench


@pytest.fixture(autouse=True)
def _no_failpoints() -> Iterator[None]:
    yield
    arm("")


@pytest.mark.parametrize(
    ("method", "what", "body"),
    [
        ("GET", "activity", None),
        ("POST", "extend", {"minutes": 5}),
        ("POST", "keep", {"minutes": 5}),
        ("POST", "message", {"text": "hello"}),
        ("PUT", "keys", {"ssh_public_keys": []}),
    ],
)
def test_a_request_in_line_has_no_session_yet_to_act_on(
    full: Bench, method: str, what: str, body: Any
) -> None:
    request = waiting(full, "ben")
    answer = full.client.open(f"/sessions/{request['session_id']}/{what}", method=method, json=body)
    assert (answer.status_code, answer.json["type"]) == (409, "/problems/session-waits")
    assert "ben still waits in line" in answer.json["detail"]


def test_for_another_user_a_request_in_line_is_not_there(full: Bench) -> None:
    request = waiting(full, "ben")
    token = Tokens(full.database, full.clock).create("cyn", Role.USER, "cyn")
    path, header = f"/sessions/{request['session_id']}", {"Authorization": f"Bearer {token}"}
    answer = full.client.post(f"{path}/extend", json={"minutes": 5}, headers=header)
    assert (answer.status_code, answer.json["type"]) == (404, "/problems/session-not-found")


def test_only_a_request_in_line_has_a_priority(full: Bench) -> None:
    [ann] = full.client.get("/sessions").json["sessions"]
    live = full.client.put(f"/queue/{ann['session_id']}", json={"priority": 5})
    assert (live.status_code, live.json["type"]) == (409, "/problems/not-in-line")
    request = waiting(full, "ben")
    end(full, request)
    gone = full.client.put(f"/queue/{request['session_id']}", json={"priority": 5})
    assert (gone.status_code, gone.json["reason"]) == (410, "deleted")
    assert full.client.put("/queue/never", json={"priority": 5}).status_code == 404


def test_a_request_that_fits_is_opened_at_once_also_if_it_would_wait(bench: Bench) -> None:
    assert ask(bench, "ann").status_code == 201


def test_a_full_server_answers_503_without_a_wait_and_202_with_one(full: Bench) -> None:
    assert ask(full, "ben", 0).status_code == 503
    answer = ask(full, "ben")
    assert answer.status_code == 202
    request = answer.json
    assert answer.headers["Location"].endswith(f"/sessions/{request['session_id']}")
    assert (request["status"], request["position"]) == ("waiting", 1)
    ann = full.client.get("/sessions").json["sessions"][0]
    assert request["promised_at"] == moved(ann["expires_at"], minutes=1)
    assert request["wait_until"] == moved(request["created_at"], minutes=240)
    assert request["ssh_command"] == "ssh ben@ssh.gw"
    assert "PRIVATE KEY" in request["ssh_private_key"]
    assert "ssh_private_key" not in read(full, request).json


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


def places(bench: Bench) -> list[str]:
    return [each["user_id"] for each in bench.client.get("/queue").json["requests"]]


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


def test_one_request_or_one_session_a_user(full: Bench) -> None:
    ben = waiting(full, "ben")
    again = ask(full, "ben")
    assert (again.status_code, again.json["session_id"]) == (409, ben["session_id"])
    assert "waits in line" in again.json["detail"]
    small = ask(full, "ben", 0, mig_profile="1g.5gb")
    assert small.status_code == 409
    assert ask(full, "ann").status_code == 409


def test_a_request_leaves_the_line_by_delete(full: Bench) -> None:
    ben, cem = waiting(full, "ben"), waiting(full, "cem")
    assert full.client.delete(f"/sessions/{ben['session_id']}").status_code == 204
    gone = read(full, ben)
    assert (gone.status_code, gone.json["reason"]) == (410, "deleted")
    assert read(full, cem).json["promised_at"] == ben["promised_at"]


def test_a_request_gives_up_when_its_wait_is_over(full: Bench) -> None:
    ben = waiting(full, "ben", 30)
    assert ben["promised_at"] is None
    full.clock.advance(minutes=30)
    serve(full)
    gone = read(full, ben)
    assert (gone.status_code, gone.json["reason"]) == (410, "gave_up")
    notice = full.notices.get("ben")
    assert notice
    assert notice.state is NoticeState.ENDED
    assert "nothing became free within 30 minutes" in notice.text


def test_a_session_without_a_wait_starts_only_beside_the_promises(full: Bench) -> None:
    waiting(full, "ben")
    end(full, full.client.get("/sessions").json["sessions"][0])
    refused = ask(full, "cem", 0, mig_profile="1g.5gb", ttl_minutes=10)
    assert refused.status_code == 503
    assert "promised" in refused.json["detail"]
    assert refused.json["retry_at"] == f"{full.clock.now + timedelta(minutes=61):%Y-%m-%dT%H:%M:%SZ}"


def test_a_small_session_fills_the_gap_before_a_promise(bench: Bench) -> None:
    opened(bench, "ann", mig_profile="4g.20gb", ttl_minutes=60)
    waiting(bench, "ben")
    assert ask(bench, "cem", 0, mig_profile="3g.20gb", ttl_minutes=61).status_code == 503
    cem = opened(bench, "cem", mig_profile="3g.20gb", ttl_minutes=30)
    assert cem["max_expires_at"] == moved(cem["created_at"], minutes=60)


def test_an_extension_past_a_promise_is_refused_with_who_waits(full: Bench) -> None:
    [ann] = full.client.get("/sessions").json["sessions"]
    assert ann["max_expires_at"] is not None
    ben = waiting(full, "ben")
    assert read(full, ann).json["max_expires_at"] is None
    path = f"/sessions/{ann['session_id']}/extend"
    for body in ({"minutes": 1}, {"minutes": "max"}, {"minutes": 5, "override": True}):
        refused = full.client.post(path, json=body)
        assert (refused.status_code, refused.json["type"]) == (409, "/problems/waited-for")
        assert refused.json["max_expires_at"] is None
        assert refused.json["waiting"] == {
            "user_id": "ben",
            "mig_profile": "7g.40gb",
            "promised_at": ben["promised_at"],
        }
    end(full, ben)
    assert full.client.post(path, json={"minutes": 1}).status_code == 200


def test_users_do_not_read_whose_promise_is_in_the_way(full: Bench) -> None:
    waiting(full, "ben")
    [ann] = full.client.get("/sessions").json["sessions"]
    tokens = Tokens(full.database, full.clock)
    secret = tokens.create("ann", Role.USER, "ann")
    token = {"Authorization": f"Bearer {secret}"}
    refused = full.client.post(f"/sessions/{ann['session_id']}/extend", json={"minutes": 5}, headers=token)
    assert refused.status_code == 409
    assert refused.json["waiting"]["user_id"] is None
    [request] = full.client.get("/queue", headers=token).json["requests"]
    assert (request["user_id"], request["session_id"], request["position"]) == (None, None, 1)
    assert full.client.put("/queue/abc", json={"priority": 5}, headers=token).status_code == 403


def test_the_queue_has_all_requests_in_order(full: Bench) -> None:
    ben, cem = waiting(full, "ben"), waiting(full, "cem", mig_profile="1g.5gb")
    requests = full.client.get("/queue").json["requests"]
    assert [(each["user_id"], each["position"], each["promised_at"]) for each in requests] == [
        ("ben", 1, ben["promised_at"]),
        ("cem", 2, cem["promised_at"]),
    ]


def test_a_priority_moves_a_request_to_the_front_and_the_delay_is_recorded(full: Bench) -> None:
    ben, cem = waiting(full, "ben"), waiting(full, "cem")
    answer = full.client.put(f"/queue/{cem['session_id']}", json={"priority": 10})
    assert (answer.status_code, answer.json["position"]) == (200, 1)
    assert answer.json["promised_at"] == ben["promised_at"]
    assert read(full, ben).json["promised_at"] == cem["promised_at"]
    assert "promise-delayed" in events(full, ben)
    assert "priority" in events(full, cem)
    unknown = full.client.put("/queue/abc", json={"priority": 10})
    assert unknown.status_code == 404


def test_a_request_in_line_counts_as_demand_once(full: Bench) -> None:
    waiting(full, "ben")
    ask(full, "cem", 0, mig_profile="3g.20gb")
    with full.database.read() as rows:
        assert rows.demand() == {"7g.40gb": 2, "3g.20gb": 1}
    full.clock.advance(minutes=60)
    serve(full)
    with full.database.read() as rows:
        assert rows.demand() == {"7g.40gb": 2, "3g.20gb": 1}


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


def test_a_lost_gpu_moves_the_promise_and_it_is_recorded(bench_of: BenchMaker) -> None:
    gpus = FakeGpus(["A100-40GB", "A100-40GB"])
    bench = bench_of(gpus)
    opened(bench, "ann", ttl_minutes=60)
    opened(bench, "bob", ttl_minutes=90)
    ben = waiting(bench, "ben")
    with bench.database.read() as rows:
        promised = rows.waiting(ben["session_id"])
        assert promised
        assert promised.gpu
    gpus.set_fault(promised.gpu, "it fell off the bus")
    serve(bench)
    assert read(bench, ben).json["promised_at"] == moved(ben["promised_at"], minutes=30)
    assert "promise-delayed" in events(bench, ben)


def test_a_wall_clock_that_is_set_moves_neither_promise_nor_wait(full: Bench) -> None:
    ben = waiting(full, "ben", 120)
    full.clock.jump(hours=6)
    serve(full)
    again = read(full, ben).json
    assert again["status"] == "waiting"
    assert again["promised_at"] == moved(ben["promised_at"], hours=6)
    assert again["wait_until"] == moved(ben["wait_until"], hours=6)
    assert "promise-delayed" not in events(full, ben)
    full.clock.advance(minutes=60)
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


def test_a_login_reads_the_place_in_line_and_then_that_the_session_opens(full: Bench) -> None:
    waiting(full, "ben")
    cem = waiting(full, "cem")
    notice = full.notices.get("cem")
    assert notice
    assert notice.state is NoticeState.WAITING
    [text] = notice.read_at(full.clock.now)
    assert "You are 2nd in line: yours by " in text
    assert re.search(r"\(2 h [23] min\) at the latest", text)  # a whole minute, by when the clock is read
    assert notice.session_id == cem["session_id"]
    full.clock.advance(minutes=60)
    serve(full)
    notice = full.notices.get("ben")
    assert notice
    assert notice.state is NoticeState.OPEN
    [text] = notice.read_at(full.clock.now)
    assert text.startswith("Your session is ready: 7g.40gb until ")
    assert text.endswith(" (1 hour).")
    full.clock.advance(minutes=1)
    full.reconciler.reconcile()
    assert full.notices.get("ben") is None
    full.gateway.login_notices.settle_line()
    notice = full.notices.get("cem")
    assert notice
    assert "You are 1st in line" in notice.text


def test_the_notices_of_a_long_line_need_no_more_statements_than_those_of_a_short_one(full: Bench) -> None:
    statements: list[str] = []

    @event.listens_for(full.database.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    def needed(users: list[str]) -> int:
        for user in users:
            waiting(full, user)
        full.gateway.login_notices.settle_line()  # writes what is not right yet
        statements.clear()
        full.gateway.login_notices.settle_line()
        return len(statements)

    assert needed(["ben"]) == needed(["cem", "dan", "eva"])


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


@pytest.mark.parametrize("wait", [-1, 10081, True, "4h", 1.5, None])
def test_what_is_no_wait_is_refused(full: Bench, wait: Any) -> None:
    assert ask(full, "ben", wait).status_code == 422


def test_an_unknown_profile_does_not_wait(full: Bench) -> None:
    assert ask(full, "ben", mig_profile="9g.90gb").status_code == 422


def test_a_placement_that_another_program_takes_first_loses_no_place(full: Bench) -> None:
    ben = waiting(full, "ben")
    full.clock.advance(minutes=60)
    full.gpus.fail("create", PlacementTaken("somebody was faster"))
    serve(full)
    full.gpus.fail("create", None)
    full.clock.advance(seconds=6)
    serve(full)
    assert read(full, ben).json["status"] == "active"


def cordon(bench: Bench, hours: float, index: int = 0) -> datetime:
    begin = bench.clock.now + timedelta(hours=hours)
    answer = bench.client.put(
        f"/gpus/{index}/cordon", json={"reason": "patch day", "from": begin.isoformat()}
    )
    assert answer.status_code == 204
    return begin


def test_until_a_maintenance_sessions_start_that_end_before(bench: Bench) -> None:
    begin = cordon(bench, hours=2)
    gpu = bench.client.get("/gpus").json["gpus"][0]
    assert (gpu["cordoned"], gpu["cordoned_from"]) == (False, f"{begin:%Y-%m-%dT%H:%M:%SZ}")
    assert ask(bench, "ann", 0, ttl_minutes=120).status_code == 503
    session = opened(bench, "ann", ttl_minutes=60)
    assert session["max_expires_at"] == f"{begin - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    path = f"/sessions/{session['session_id']}/extend"
    refused = bench.client.post(path, json={"minutes": 60})
    assert (refused.status_code, refused.json["type"]) == (409, "/problems/waited-for")
    assert refused.json["waiting"] is None
    assert "maintenance" in refused.json["detail"]
    assert bench.client.post(path, json={"minutes": 59}).status_code == 200


def test_at_its_time_a_maintenance_closes_the_gpu_and_its_sessions_stay(bench: Bench) -> None:
    session = opened(bench, "ann", mig_profile="1g.5gb", ttl_minutes=300)
    cordon(bench, hours=2)
    bench.clock.advance(hours=2)
    serve(bench)
    gpu = bench.client.get("/gpus").json["gpus"][0]
    assert (gpu["cordoned"], gpu["cordoned_from"], gpu["reason"]) == (True, None, "cordoned: patch day")
    assert ask(bench, "ben", 0, mig_profile="1g.5gb", ttl_minutes=1).status_code == 503
    assert read(bench, session).json["status"] == "active"
    assert bench.client.delete("/gpus/0/cordon").status_code == 204
    assert ask(bench, "ben", 0, mig_profile="1g.5gb").status_code == 201


def test_a_maintenance_moves_a_promise_and_its_end_brings_it_back(full: Bench) -> None:
    ben = waiting(full, "ben")
    cordon(full, hours=1.5)
    assert read(full, ben).json["promised_at"] is None
    assert "promise-delayed" in events(full, ben)
    full.client.delete("/gpus/0/cordon")
    assert read(full, ben).json["promised_at"] == ben["promised_at"]


@pytest.mark.parametrize("begin", ["18:00", "soon", 5, ""])
def test_what_is_no_time_begins_no_maintenance(bench: Bench, begin: Any) -> None:
    assert bench.client.put("/gpus/0/cordon", json={"from": begin}).status_code == 422


def test_the_end_of_a_session_is_a_gain_only_if_somebody_then_starts_earlier(bench: Bench) -> None:
    large = opened(bench, "ann", mig_profile="4g.20gb", ttl_minutes=300)
    small = opened(bench, "bob", mig_profile="3g.20gb", ttl_minutes=60)

    def gains(session: Any) -> bool:
        with bench.database.read() as rows:
            return bench.gateway.queue.gain(rows, rows.live(session["session_id"]))

    assert (gains(large), gains(small)) == (False, False)
    waiting(bench, "ben", 600)
    serve(bench)
    assert (gains(large), gains(small)) == (True, False)


@pytest.mark.parametrize("policy", ["dynamic", "static", "mixed"])
def test_a_whole_gpu_is_waited_for_like_a_slice(bench_of: BenchMaker, policy: str) -> None:
    bench = bench_of(FakeGpus(["L4", "L4"], whole_gpus=True), mig_policy=policy, whole_gpus=True)
    ann = opened(bench, "ann", mig_profile="full")
    opened(bench, "bob", mig_profile="full", ttl_minutes=30)
    ben = waiting(bench, "ben", mig_profile="full")
    assert ben["promised_at"] == moved(ben["created_at"], minutes=31)
    waiting(bench, "cem", mig_profile="full")
    end(bench, ann)
    serve(bench)
    assert read(bench, ben).json["status"] == "active"


def set_policy(bench: Bench, name: str, **rules: Any) -> None:
    assert bench.client.put(f"/policies/{name}", json=rules).status_code == 200


def test_a_policy_limits_the_wait_also_of_a_request_that_fits_now(bench: Bench) -> None:
    set_policy(bench, "default", max_wait_minutes=120)
    refused = ask(bench, "ann", 121)
    assert (refused.status_code, refused.json["rule"]) == (403, "max_wait_minutes")
    assert (refused.json["limit"], refused.json["used"], refused.json["retry_at"]) == (120, 121, None)
    assert "a wait of 121 minutes: the longest is 120 minutes" in refused.json["detail"]
    opened(bench, "ann", ttl_minutes=60)
    assert ask(bench, "ben", 121).status_code == 403
    assert bench.client.get("/queue").json["requests"] == []
    waiting(bench, "ben", 120)
    waiting(bench, "cleo", 121, override=True)


def test_a_user_whose_policy_forbids_waiting_gets_a_session_that_fits(bench: Bench) -> None:
    set_policy(bench, "user:ann", max_wait_minutes=0)
    assert ask(bench, "ann", 1).status_code == 403
    opened(bench, "ann")


def test_a_request_joins_the_line_with_the_priority_of_its_policy(full: Bench) -> None:
    set_policy(full, "staff", priority=10)
    set_policy(full, "user:guest", priority=-5)
    full.client.put("/users/prof", json={"group": "staff"})
    guest, ben = waiting(full, "guest"), waiting(full, "ben")
    prof = waiting(full, "prof")
    line = full.client.get("/queue").json["requests"]
    assert [(each["user_id"], each["priority"]) for each in line] == [("prof", 10), ("ben", 0), ("guest", -5)]
    assert prof["promised_at"] == ben["promised_at"] == guest["promised_at"]
    assert line == sorted(line, key=lambda each: each["promised_at"])
    assert events(full, ben) == ["waiting", "promise-delayed"]
    assert events(full, guest) == ["waiting", "promise-delayed", "promise-delayed"]
    delays = full.client.get(f"/sessions/{ben['session_id']}/events").json["events"][1]["detail"]
    assert delays.startswith("priority: from ")


def test_requests_of_equal_priority_overtake_nobody(full: Bench) -> None:
    set_policy(full, "default", priority=7)
    first, promised = waiting(full, "ben"), waiting(full, "cleo")["promised_at"]
    waiting(full, "dave")
    second = full.client.get("/queue").json["requests"][1]
    assert (second["user_id"], second["promised_at"]) == ("cleo", promised)
    assert events(full, first) == ["waiting"]


def test_a_request_in_line_keeps_what_it_was_promised_when_its_policy_changes(full: Bench) -> None:
    set_policy(full, "default", priority=5)
    ben = waiting(full, "ben", ttl_minutes=60)
    set_policy(
        full, "default", priority=-5, max_ttl_minutes=10, max_wait_minutes=0, may_start=False, profiles=[]
    )
    full.client.put("/users/ben", json={"group": "guests"})
    after = read(full, ben).json
    assert {**after, "ssh_private_key": None} == {**ben, "ssh_private_key": None}
    full.clock.advance(minutes=62)
    serve(full)
    assert read(full, ben).json["status"] == "active"
