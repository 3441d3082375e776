"""Maintenances that begin later: what may still run before them."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.api.waiting_line.conftest import ask, events, opened, read, serve, waiting
from tests.conftest import Bench


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
