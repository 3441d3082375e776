"""What the line promises, and what is done to keep it."""

from datetime import timedelta
from typing import Any

import pytest

from gateway.domain.permissions import Role
from gateway.services.tokens import Tokens
from tests.api.waiting_line.conftest import ask, end, events, moved, opened, read, serve, waiting
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


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
