"""Requests in line, what they were promised, and why a promise can get later."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from gateway.domain.timeline import Slice

# From the end of a lease until the next session is open in its slice: each promise includes this time. If a
# session opens later by less than this, the promises behind it stay.
TURNOVER = timedelta(minutes=1)


class Cause(StrEnum):
    """Why a promise got later."""

    GPU_LOST = "gpu-lost"  # the GPU is out of order, cordoned, or not there any more
    PRIORITY = "priority"
    NOT_FREE = "not-free"  # a session, or an instance of an administrator, is still in the slice


@dataclass(frozen=True, slots=True)
class Reservation:
    """A slice of the GPU with the UUID `gpu` that a request gets at `start`, in whole seconds."""

    gpu: str
    slice: Slice
    start: datetime


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request in line. It wants `profile` for `lease`, and gives up at `until`."""

    id: str
    profile: str
    lease: timedelta
    asked_at: datetime
    until: datetime
    priority: int = 0
    reservation: Reservation | None = None

    @property
    def order(self) -> tuple[int, datetime, str]:
        """The place in line: the lowest is the first."""
        return -self.priority, self.asked_at, self.id

    def is_overtaken_by(self, raised: "Waiter | None") -> bool:
        """Whether the request steps back for the one that has joined, or whose priority was raised."""
        return raised is not None and self.order > raised.order


@dataclass(frozen=True, slots=True)
class Lease:
    """A slice that a session holds until `ends`."""

    session_id: str
    gpu: str
    slice: Slice
    ends: datetime


class Delay(NamedTuple):
    """A promise that could not be kept; `now` None: no other can be given."""

    id: str
    before: datetime
    now: datetime | None
    cause: Cause


@dataclass(frozen=True, slots=True)
class Plan:
    """`reservations` by the ids of the requests that hold one. `due` are the requests that can begin at once,
    in their order. `latest_ends` are the latest ends of leases, by session; a session that nobody waits for
    is not in it. `waited_for_by` is the request that such a session must make room for, None for a
    maintenance."""

    reservations: Mapping[str, Reservation]
    due: tuple[str, ...] = ()
    delays: tuple[Delay, ...] = ()
    latest_ends: Mapping[str, datetime] = field(default_factory=dict)
    waited_for_by: Mapping[str, str | None] = field(default_factory=dict)
