"""Many requests at once, and a stop while some are under way."""

import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from tests import own
from tests.soak.agreement import look_at_rows
from tests.whole_gateway import Gateway, eventually

_AT_ONCE = 200
_SLICES = 14  # of the smallest, on two A100


def post(gateway: Gateway, user_id: str) -> requests.Response:
    return requests.post(f"{gateway.url}/sessions", json={"user_id": user_id}, timeout=60)


def delete_all(gateway: Gateway) -> None:
    ids = [session["session_id"] for session in gateway.get("/sessions")["sessions"]]
    with ThreadPoolExecutor(4) as pool:
        assert {answer.status_code for answer in pool.map(gateway.delete, ids)} == {204}
    assert [left for session_id in ids for left in gateway.leftovers(session_id)] == []


def test_two_hundred_creates_at_once_are_answered_clearly(gateway: Gateway) -> None:
    users = [own.user(f"load{number // 2}") for number in range(_AT_ONCE)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(lambda user: post(gateway, user), users))
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses.keys() <= {201, 409, 503}, statuses
    assert statuses[201] == _SLICES
    for answer in answers:
        assert answer.ok or answer.headers["Content-Type"] == "application/problem+json"
    slices = {answer.json()["gpu_uuid"] for answer in answers if answer.ok}
    assert len(slices) == _SLICES
    delete_all(gateway)


def test_a_stop_waits_for_the_creates_that_are_under_way(gateway: Gateway) -> None:
    count = 4
    with ThreadPoolExecutor(count) as pool:
        under_way = [pool.submit(post, gateway, own.user(f"late{number}")) for number in range(count)]
        eventually(lambda: len(look_at_rows(gateway.directory)) == count)
        serving: Any = gateway.processes["serve"]
        os.killpg(serving.pid, signal.SIGTERM)
        begun = time.monotonic()
        answers = [future.result() for future in under_way]
    serving.wait(timeout=30)
    print(f"stopped {time.monotonic() - begun:.1f} s after the signal")
    assert [answer.status_code for answer in answers] == [201] * count
    gateway.serve()
    live = {session["session_id"] for session in gateway.get("/sessions")["sessions"]}
    assert live == {answer.json()["session_id"] for answer in answers}
    assert {row["status"] for row in look_at_rows(gateway.directory).values()} == {"active"}
    delete_all(gateway)
