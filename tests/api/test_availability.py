"""What is free beside the promises: /gpus answers what a request without a wait then gets."""

from datetime import timedelta
from itertools import count
from random import Random
from typing import Any

import pytest

from gateway.domain.mig import MigPolicy, Placement
from tests.api.gpu_answers import offer
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

PROFILES = ("1g.5gb", "1g.5gb+me", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb")


def ask(bench: Bench, user: str, profile: str, ttl: int = 60, wait: int = 0) -> Any:
    body = {"user_id": user, "mig_profile": profile, "ttl_minutes": ttl, "wait_minutes": wait}
    return bench.client.post("/sessions", json=body)


def fit(bench: Bench, profile: str, ttl: int = 60) -> Any:
    answer = bench.client.get("/gpus/fit", query_string={"profile": profile, "ttl_minutes": ttl})
    assert answer.status_code == 200, answer.json
    return answer.json


def end(bench: Bench, session: Any) -> None:
    assert bench.client.delete(f"/sessions/{session['session_id']}").status_code == 204


@pytest.fixture
def half_free(bench: Bench) -> Bench:
    """Half of the only GPU is free, and promised from the end of ann's session on, in an hour."""
    assert ask(bench, "ann", "4g.20gb").status_code == 201
    assert ask(bench, "ben", "7g.40gb", wait=600).status_code == 202
    return bench


def test_a_free_slice_that_is_promised_soon_fits_only_a_short_session(half_free: Bench) -> None:
    short, long = fit(half_free, "3g.20gb", 60), fit(half_free, "3g.20gb", 61)
    assert (short["fits"], short["now"]["start"], short["in_line"]) == (True, 4, 1)
    assert (long["fits"], long["now"], long["waits_for"]) == (False, None, [])
    assert long["at"] == ask(half_free, "cem", "3g.20gb", 61).json["retry_at"]


def test_the_profiles_count_for_a_session_of_the_users_usual_length(half_free: Bench) -> None:
    assert (offer(half_free, "1g.5gb")["available"], offer(half_free, "7g.40gb")["available"]) == (3, 0)
    half_free.client.put("/policies/default", json={"default_ttl_minutes": 90})
    small = offer(half_free, "1g.5gb")
    assert small["available"] == 0
    assert small["next_available_at"] == fit(half_free, "1g.5gb", 90)["at"]


def test_a_profile_behind_the_line_waits_for_the_sessions_in_its_slice(half_free: Bench) -> None:
    [ann] = half_free.client.get("/sessions").json["sessions"]
    behind = fit(half_free, "7g.40gb")
    assert [each["session_id"] for each in behind["waits_for"]] == [ann["session_id"]]
    [ben] = half_free.client.get("/queue").json["requests"]
    [gpu] = half_free.client.get("/gpus").json["gpus"]
    promised = {"profile": "7g.40gb", "start": 0, "size": 8, "promised_at": ben["promised_at"]}
    assert gpu["promised"] == [promised]
    assert behind["at"] > ben["promised_at"]


def test_before_a_maintenance_only_what_ends_before_it_fits(bench: Bench) -> None:
    begin = bench.clock.now + timedelta(hours=2)
    assert bench.client.put("/gpus/0/cordon", json={"from": begin.isoformat()}).status_code == 204
    assert (fit(bench, "3g.20gb", 110)["fits"], fit(bench, "3g.20gb", 120)["fits"]) == (True, False)
    assert (fit(bench, "3g.20gb", 120)["at"], offer(bench, "3g.20gb")["available"]) == (None, 2)


def test_the_metrics_count_beside_the_promises(half_free: Bench) -> None:
    half_free.client.put("/policies/default", json={"default_ttl_minutes": 90})
    half_free.gateway.gauges.measure()
    text = half_free.client.get("/metrics").text
    assert 'gpu_gateway_profile_available{mig_profile="1g.5gb"} 0.0' in text
    assert 'gpu_gateway_profile_capacity{mig_profile="1g.5gb"} 7.0' in text


@pytest.mark.parametrize("ttl", ["0", "x", "999999999", "1_0", "１０", " 10"])
def test_what_is_no_lease_is_refused(bench: Bench, ttl: str) -> None:
    answer = bench.client.get("/gpus/fit", query_string={"profile": "1g.5gb", "ttl_minutes": ttl})
    assert (answer.status_code, list(answer.json["errors"])) == (422, ["ttl_minutes"])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("policy", [MigPolicy.DYNAMIC, MigPolicy.MIXED])
def test_what_is_said_to_be_free_is_what_a_request_gets(
    bench_of: BenchMaker, policy: MigPolicy, seed: int
) -> None:
    """For a random pool with a line: when and whether it fits, and how many sessions can begin."""
    random, users = Random(seed), (f"user{number}" for number in count())
    gpus = FakeGpus(["A100-40GB", "A100-40GB"])
    if policy is MigPolicy.MIXED:
        gpus.create(gpus.list()[0].uuid, "2g.10gb", Placement(0, 2))
    bench = bench_of(gpus, mig_policy=str(policy))
    for _ in range(14):
        ask(bench, next(users), random.choice(PROFILES), random.choice((20, 60, 200)), wait=3000)
    [*sessions] = bench.client.get("/sessions").json["sessions"]
    end(bench, random.choice(sessions))
    assert bench.client.get("/queue").json["requests"]
    for profile in PROFILES:
        for ttl in (5, 60, 150):
            said = fit(bench, profile, ttl)
            got = ask(bench, next(users), profile, ttl)
            assert said["fits"] == (got.status_code == 201), (profile, ttl)
            if said["fits"]:
                end(bench, got.json)
            else:
                assert said["at"] == got.json["retry_at"]
        available = offer(bench, profile)["available"]
        got = [ask(bench, next(users), profile) for _ in range(available + 1)]
        assert [each.status_code for each in got] == [201] * available + [503]
        for each in got[:available]:
            end(bench, each.json)
