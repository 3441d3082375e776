"""The map of a GPU: its memory slices as segments, from the JSON of `GET /gpus`. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

SOON_MINUTES = 15  # a lease that ends within this time is drawn as running out

_Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Segment:
    """`start` and `size` are in memory slices. `state` is a class of the style sheet, and a word on the map.
    `minutes_left` is None without a lease, `minutes_idle` for a slice that is used or whose use is unknown.
    `reserved_in` are the minutes until a request in line gets the slice, None if none does."""

    start: int
    size: int
    state: str
    profile: str = ""
    user_id: str | None = None
    session_id: str | None = None
    minutes_left: int | None = None
    minutes_idle: int | None = None
    reserved_in: int | None = None
    problem: str | None = None


def segments(gpu: _Json, now: datetime) -> Iterator[Segment]:
    """Every memory slice of the GPU is in exactly one segment; a free slice is a segment of its own."""
    instances = {instance["start"]: instance for instance in gpu["instances"]}
    slot, total = 0, gpu["memory_slices"]["total"]
    while slot < total:
        segment = _held(gpu, instances[slot], now) if slot in instances else _free(gpu, slot, now)
        yield segment
        slot += segment.size


def _free(gpu: _Json, slot: int, now: datetime) -> Segment:
    reserved_in = _reserved_in(gpu, slot, 1, now)
    unused = "free" if reserved_in is None else "reserved"
    state = "faulty" if not gpu["healthy"] else "cordoned" if gpu["cordoned"] else unused
    return Segment(slot, 1, state, reserved_in=reserved_in)


def _held(gpu: _Json, instance: _Json, now: datetime) -> Segment:
    ends, idle_since = (_time(instance[name]) for name in ("expires_at", "idle_since"))
    left = _minutes(ends - now) if ends else None
    idle = _minutes(now - idle_since) if idle_since else None
    return Segment(
        instance["start"],
        instance["size"],
        _state(gpu, instance, left, idle),
        instance["profile"],
        instance["user_id"],
        instance["session_id"],
        left,
        idle,
        _reserved_in(gpu, instance["start"], instance["size"], now),
        instance["problem"],
    )


def _state(gpu: _Json, instance: _Json, minutes_left: int | None, minutes_idle: int | None) -> str:
    if instance["problem"] or not gpu["healthy"]:
        return "faulty"
    if instance["status"] is None:
        return "foreign"
    if instance["status"] != "active":
        return str(instance["status"])
    if minutes_left is not None and minutes_left <= SOON_MINUTES:
        return "ending"
    return "active" if minutes_idle is None else "idle"


def _reserved_in(gpu: _Json, start: int, size: int, now: datetime) -> int | None:
    """The minutes until the first request in line gets one of these memory slices."""
    spans = [
        _minutes(datetime.fromisoformat(each["promised_at"]) - now)
        for each in gpu["promised"]
        if each["start"] < start + size and start < each["start"] + each["size"]
    ]
    return min(spans, default=None)


def _minutes(span: timedelta) -> int:
    return max(0, round(span.total_seconds() / 60))


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
