"""The segments of the map on the web pages, from the JSON of `GET /gpus`."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.api.responses import utc
from gateway.dashboard.slice_map import segments

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)


def after(**delta: float) -> str:
    return utc(NOW + timedelta(**delta))


def instance(**changes: Any) -> dict[str, Any]:
    return {
        "profile": "2g.10gb",
        "start": 2,
        "size": 2,
        "session_id": "s1",
        "user_id": "user123",
        "status": "active",
        "expires_at": after(hours=2),
        "idle_since": None,
        "problem": None,
        **changes,
    }


def gpu(*instances: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "memory_slices": {"total": 4},
        "instances": instances,
        "promised": [],
        "healthy": True,
        "cordoned": False,
        **changes,
    }


def promise(start: int, size: int, **delta: float) -> dict[str, Any]:
    return {"start": start, "size": size, "promised_at": after(**delta)}


def states(shown: dict[str, Any]) -> list[str]:
    return [each.state for each in segments(shown, NOW)]


def test_every_slice_is_in_exactly_one_segment() -> None:
    drawn = list(segments(gpu(instance()), NOW))
    assert [(each.start, each.size) for each in drawn] == [(0, 1), (1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "active"),
        ({"status": "pending"}, "pending"),
        ({"status": "closing"}, "closing"),
        ({"expires_at": after(minutes=16)}, "active"),
        ({"expires_at": after(minutes=15)}, "ending"),
        ({"idle_since": after(minutes=-52)}, "idle"),
        ({"idle_since": after(minutes=-52), "expires_at": after(minutes=5)}, "ending"),
        ({"idle_since": after(minutes=-52), "status": "closing"}, "closing"),
        ({"problem": "The slice is lost."}, "faulty"),
        ({"status": None, "session_id": None, "expires_at": None}, "foreign"),
    ],
)
def test_a_held_slice_has_the_state_of_its_session(changes: dict[str, Any], state: str) -> None:
    assert states(gpu(instance(**changes))) == ["free", "free", state]


def test_a_lost_gpu_is_faulty_with_all_that_is_on_it() -> None:
    assert states(gpu(instance(), healthy=False, promised=[promise(0, 2, hours=1)])) == ["faulty"] * 3


def test_what_is_not_held_on_a_cordoned_gpu_is_cordoned() -> None:
    assert states(gpu(instance(), cordoned=True)) == ["cordoned", "cordoned", "active"]


def test_a_slice_that_a_request_in_line_gets_is_marked_with_the_time_of_the_first_one() -> None:
    shown = gpu(instance(), promised=[promise(1, 2, hours=3), promise(0, 4, hours=2), promise(1, 1, hours=1)])
    assert [(each.state, each.reserved_in) for each in segments(shown, NOW)] == [
        ("reserved", 120),
        ("reserved", 60),
        ("active", 120),
    ]


def test_the_times_are_in_whole_minutes_and_never_negative() -> None:
    [_, _, held] = segments(
        gpu(instance(expires_at=after(seconds=-90), idle_since=after(minutes=-52, seconds=-20))), NOW
    )
    assert (held.minutes_left, held.minutes_idle) == (0, 52)
