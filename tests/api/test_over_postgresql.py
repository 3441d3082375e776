"""The API over PostgreSQL behaves as over SQLite."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.database_url import DatabaseUrl
from tests.conftest import NOTHING, Bench, BenchMaker
from tests.fakes.gpus import FakeGpus


@pytest.fixture
def bench(bench_of: BenchMaker, postgresql_url: DatabaseUrl) -> Bench:
    return bench_of(FakeGpus(["A100-40GB"]), db=postgresql_url)


def create(bench: Bench, user_id: str, **body: Any) -> Any:
    return bench.client.post("/sessions", json={"user_id": user_id, **body})


def test_a_session_opens_and_closes(bench: Bench) -> None:
    session = create(bench, "ann", mig_profile="3g.20gb").json
    assert bench.client.get("/sessions").json["sessions"][0]["session_id"] == session["session_id"]
    assert create(bench, "ann").status_code == 409
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 204
    assert bench.client.get(f"/sessions/{session['session_id']}").status_code == 410
    detail = bench.client.get(f"/sessions/{session['session_id']}/events").json["events"]
    assert [event["what"] for event in detail] == ["created", "opened", "closing", "ended"]
    assert bench.leftovers() == NOTHING


def test_an_expired_session_is_closed(bench: Bench) -> None:
    session = create(bench, "ann", ttl_minutes=1).json
    bench.clock.advance(minutes=2)
    bench.gateway.reaper.reap()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == "expired"
    assert bench.leftovers() == NOTHING


def test_a_session_without_its_container_is_closed(bench: Bench) -> None:
    session = create(bench, "ann").json
    bench.containers.lose(session["session_id"])
    bench.reconciler.reconcile()
    assert bench.client.get(f"/sessions/{session['session_id']}").json["reason"] == "failed"
    assert bench.leftovers() == NOTHING


def test_many_concurrent_requests_share_the_capacity(bench: Bench) -> None:
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda number: create(bench, f"u{number}"), range(16)))
    assert Counter(response.status_code for response in responses) == {201: 7, 503: 9}
    assert len(bench.instances()) == 7


def test_stored_keys_and_tokens_are_kept(bench: Bench, public_key: str) -> None:
    stored = bench.client.put("/users/ann/keys", json={"ssh_public_keys": [public_key]})
    assert stored.status_code == 200
    assert bench.client.get("/users/ann/keys").json == stored.json
    assert "ssh_private_key" not in create(bench, "ann").json
