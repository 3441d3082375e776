"""A full server, requests that wait, and rounds of the line."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from gateway.domain.audit import REAPER, acting
from gateway.failpoints import arm
from tests.conftest import Bench


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


def places(bench: Bench) -> list[str]:
    return [each["user_id"] for each in bench.client.get("/queue").json["requests"]]
