"""The wall clock is set while leases run."""

import logging
from datetime import timedelta
from typing import Any

import pytest

from gateway.domain import clock
from tests.conftest import NOTHING, Bench


def create(bench: Bench, **body: Any) -> str:
    answer: Any = bench.client.post("/sessions", json={"user_id": "user123", "ttl_minutes": 60, **body})
    return str(answer.json["session_id"])


def tick(bench: Bench) -> None:
    bench.gateway.reaper.reap()
    bench.reconciler.reconcile()


@pytest.mark.parametrize("hours", [2, -2])
def test_setting_the_wall_clock_neither_ends_nor_prolongs_a_lease(bench: Bench, hours: int) -> None:
    session_id = create(bench)
    bench.clock.jump(hours=hours)
    tick(bench)
    assert bench.client.get(f"/sessions/{session_id}").json["status"] == "active"
    assert bench.reconciler.next_expiry() == timedelta(minutes=60)
    bench.clock.advance(minutes=59)
    tick(bench)
    assert bench.client.get(f"/sessions/{session_id}").json["status"] == "active"
    bench.clock.advance(minutes=1)
    tick(bench)
    assert bench.client.get(f"/sessions/{session_id}").json["reason"] == "expired"
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize("hours", [2, -2])
def test_the_shown_end_of_a_lease_follows_the_wall_clock(
    bench: Bench, hours: int, caplog: pytest.LogCaptureFixture
) -> None:
    session_id = create(bench)
    bench.clock.jump(hours=hours)
    with caplog.at_level(logging.WARNING):
        tick(bench)
        tick(bench)
    ends = bench.clock.now + timedelta(hours=1)
    assert bench.client.get(f"/sessions/{session_id}").json["expires_at"] == f"{ends:%Y-%m-%dT%H:%M:%SZ}"
    assert [record.message for record in caplog.records] == [
        "the wall clock was set, leases last as long as before"
    ]


def test_after_a_reboot_the_wall_clock_decides(bench: Bench) -> None:
    over = create(bench, ttl_minutes=10)
    bench.clock.advance(minutes=9)
    bench.clock.reboot()
    assert bench.reconciler.next_expiry() == timedelta(minutes=1)
    bench.clock.advance(minutes=1)
    tick(bench)
    assert bench.client.get(f"/sessions/{over}").json["reason"] == "expired"


def test_setting_the_wall_clock_does_not_close_a_session_that_opens(bench: Bench) -> None:
    create(bench)
    with bench.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sessions SET status = 'pending', container_id = NULL")
    bench.clock.jump(hours=2)
    with bench.database.read() as rows:
        [session] = rows.list()
    assert session.is_being_opened(bench.clock(), claimed=None)
    bench.clock.advance(minutes=6)
    assert not session.is_being_opened(bench.clock(), claimed=None)


def test_the_kernels_uptime_advances_and_the_boot_id_stays() -> None:
    before, after = clock.read(), clock.read()
    assert before.boot == after.boot
    assert before.uptime <= after.uptime
    assert abs(after.jump_since(before)) < clock.JUMP


def test_processes_on_several_machines_share_no_uptime_but_the_wall_clock() -> None:
    first, second = clock.shared(), clock.shared()
    assert first.boot != second.boot
    assert first.wall <= second.wall
    assert second.jump_since(first) == timedelta()
