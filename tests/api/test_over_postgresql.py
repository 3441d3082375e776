"""The API over PostgreSQL behaves as over SQLite."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.database_url import DatabaseUrl
from gateway.domain.counters import Counter as Counted
from gateway.domain.metrics import Reading, Sample
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


def test_counters_usage_policies_webhooks_and_signals_are_kept(bench: Bench) -> None:
    assert bench.client.put("/policies/default", json={"max_ttl_minutes": 90}).status_code == 200
    hook = {"url": "https://hooks.example.org/gpu", "events": ["session.*"]}
    assert bench.client.put("/webhooks/lab", json=hook).status_code == 201
    assert create(bench, "ann", ttl_minutes=91).status_code == 403
    id = create(bench, "ann", mig_profile="3g.20gb", ttl_minutes=60).json["session_id"]
    bench.clock.advance(minutes=7)
    with bench.database.begin() as rows:
        rows.publish_reading(Reading((Sample("part_ready", ("gpus",), 1.0),)), bench.clock.now)
        counted = {(each.counter, each.labels): each.by for each in rows.counts(bench.clock.now)}
        assert rows.last_reading() is not None
    assert counted[Counted.GPU_SECONDS, ("3g.20gb", "ann")] == 420
    assert counted[Counted.OPENS, ("3g.20gb", "opened")] == 1
    with bench.database.read() as rows:
        bench.gateway.idle.examine(rows.live(id))
    assert bench.client.get(f"/sessions/{id}/activity").status_code == 200
    assert bench.client.post(f"/sessions/{id}/keep", json={"minutes": 5}).status_code == 200
    bench.client.delete(f"/sessions/{id}")
    [line] = bench.client.get("/usage?since=2000-01-01&until=2100-01-01").json["usage"]
    assert (line["user"], line["lease_seconds"]) == ("ann", 420)
    types = [each["type"] for each in bench.client.get("/webhooks/lab/deliveries").json["deliveries"]]
    assert types == ["session.created", "session.opened", "session.kept", "session.closing", "session.ended"]
    [target] = bench.gateway.webhooks.due()
    assert len(target[1]) == 5
    assert bench.client.delete("/webhooks/lab").status_code == 204
