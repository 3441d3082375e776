"""The map of a GPU: its memory slices as segments, from the JSON of `GET /gpus`. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

SOON_MINUTES = 15  # a lease that ends within this time is drawn as running out

_Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Segment:
    """`start` and `size` are in memory slices. `state` is a class of the style sheet, and a word of the
    legend. `minutes_left` is None without a lease."""

    start: int
    size: int
    state: str
    profile: str = ""
    user_id: str | None = None
    session_id: str | None = None
    ends: datetime | None = None
    minutes_left: int | None = None
    problem: str | None = None


def segments(gpu: _Json, now: datetime) -> Iterator[Segment]:
    """Every memory slice of the GPU is in exactly one segment; a free slice is a segment of its own."""
    instances = {instance["start"]: instance for instance in gpu["instances"]}
    slot, total = 0, gpu["memory_slices"]["total"]
    while slot < total:
        segment = _held(instances[slot], now) if slot in instances else Segment(slot, 1, _unused(gpu))
        yield segment
        slot += segment.size


def _unused(gpu: _Json) -> str:
    if not gpu["healthy"]:
        return "faulty"
    return "cordoned" if gpu["cordoned"] else "free"


def _held(instance: _Json, now: datetime) -> Segment:
    ends = datetime.fromisoformat(instance["expires_at"]) if instance["expires_at"] else None
    left = max(0, round((ends - now).total_seconds() / 60)) if ends else None
    return Segment(
        instance["start"],
        instance["size"],
        _state(instance, left),
        instance["profile"],
        instance["user_id"],
        instance["session_id"],
        ends,
        left,
        instance["problem"],
    )


def _state(instance: _Json, minutes_left: int | None) -> str:
    if instance["problem"]:
        return "faulty"
    if instance["status"] is None:
        return "foreign"
    if instance["status"] == "active" and minutes_left is not None and minutes_left <= SOON_MINUTES:
        return "ending"
    return str(instance["status"])
