"""The next session says why the last one ended."""

from typing import Any

import pytest

from gateway.domain.models import Reason
from tests.conftest import Bench


def create(bench: Bench, user_id: str = "user123", **body: Any) -> str:
    answer = bench.client.post("/sessions", json={"user_id": user_id, **body})
    assert answer.status_code == 201, answer.json
    return str(answer.json["session_id"])


def last_time(bench: Bench, session_id: str) -> list[str]:
    motd = bench.settings.state_dir / "sessions" / session_id / "etc/motd"
    lines = motd.read_text().splitlines()
    return [line.partition("Last time   ")[2] for line in lines if "Last time" in line]


def test_the_next_session_says_that_the_lease_was_over(bench: Bench) -> None:
    first = create(bench, ttl_minutes=240)
    assert last_time(bench, first) == []
    bench.clock.advance(minutes=240)
    bench.gateway.reaper.reap()
    ended = bench.clock.now.astimezone()
    bench.clock.advance(hours=1)
    second = create(bench)
    assert last_time(bench, second) == [f"ended {ended:%Y-%m-%d %H:%M %Z}: its lease was over, 4 hours"]
    bench.reconciler.reconcile()
    assert len(last_time(bench, second)) == 1


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason != Reason.EXPIRED])
def test_every_reason_has_words(bench: Bench, reason: Reason) -> None:
    bench.sessions.close(create(bench), reason)
    [line] = last_time(bench, create(bench))
    assert len(line.partition(": ")[2].split()) > 3


def test_only_the_last_session_of_the_same_user_counts_and_for_a_week(bench: Bench) -> None:
    bench.sessions.close(create(bench), Reason.GPU_LOST)
    bench.clock.advance(days=1)
    bench.sessions.close(create(bench), Reason.DELETED)
    assert last_time(bench, create(bench, "user456")) == []
    bench.clock.advance(days=6)
    again = create(bench, ttl_minutes=10)
    assert "deleted" in last_time(bench, again)[0]
    bench.sessions.close(again, Reason.DELETED)
    bench.clock.advance(days=8)
    assert last_time(bench, create(bench)) == []
