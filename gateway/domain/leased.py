"""The rules of a lease that need some columns of a session, not its whole row. Pure."""

from datetime import datetime, timedelta
from typing import Protocol

from gateway.domain.clock import Moment
from gateway.domain.mig import Placement
from gateway.domain.plan import Allocation
from gateway.domain.states import Reason

OPENING_GRACE = timedelta(minutes=5)  # longer than opening a session can take


class SessionColumns(Protocol):
    """The columns of a live session that a rule reads, of its row or of a `LiveSession`."""

    @property
    def id(self) -> str: ...
    @property
    def user_id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def end_reason(self) -> str | None: ...
    @property
    def mig_profile(self) -> str: ...
    @property
    def gpu(self) -> str | None: ...
    @property
    def start(self) -> int | None: ...
    @property
    def size(self) -> int | None: ...
    @property
    def gpu_uuid(self) -> str | None: ...
    @property
    def borrowed(self) -> bool: ...
    @property
    def problem(self) -> str | None: ...
    @property
    def container_id(self) -> str | None: ...
    @property
    def address(self) -> str | None: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def expires_at(self) -> datetime: ...
    @property
    def boot(self) -> str | None: ...
    @property
    def expires_uptime(self) -> float | None: ...
    @property
    def lease_seconds(self) -> int: ...
    @property
    def opened_at(self) -> datetime | None: ...
    @property
    def idle_since(self) -> datetime | None: ...
    @property
    def latest_end(self) -> datetime | None: ...
    @property
    def gpu_share(self) -> float | None: ...
    @property
    def max_lease_minutes(self) -> int | None: ...
    @property
    def warned_for(self) -> int | None: ...
    @property
    def message(self) -> str | None: ...
    @property
    def named(self) -> dict[str, str]: ...
    @property
    def placement(self) -> Placement | None: ...
    @property
    def is_warned(self) -> bool: ...
    @property
    def lease(self) -> timedelta: ...
    def time_left(self, now: Moment) -> timedelta: ...
    def ends_at(self, now: Moment) -> datetime: ...
    def age(self, now: Moment) -> timedelta: ...
    def is_being_opened(self, now: Moment, claimed: bool | None) -> bool: ...


class Leased:
    """What follows from these columns."""

    __slots__ = ()

    @property
    def named(self: SessionColumns) -> dict[str, str]:
        """The fields that identify the session in a log line."""
        return {"session_id": self.id, "user_id": self.user_id}

    @property
    def placement(self: SessionColumns) -> Placement | None:
        if self.start is None or self.size is None:
            return None
        return Placement(self.start, self.size)

    @property
    def allocation(self: SessionColumns) -> Allocation | None:
        """The slice that the session holds; None if it holds none."""
        if self.gpu is None or self.placement is None:
            return None
        return Allocation(self.gpu, self.mig_profile, self.placement, self.borrowed, self.gpu_uuid)

    @property
    def lease(self: SessionColumns) -> timedelta:
        """The length of the whole lease, its extensions included."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def is_warned(self: SessionColumns) -> bool:
        """Whether the user was warned of the end that the lease has now."""
        return self.warned_for == self.lease_seconds

    def time_left(self: SessionColumns, now: Moment) -> timedelta:
        """Return the time until the lease ends; zero or negative if it is over.

        The uptime decides, so that a change of the wall clock neither ends nor prolongs the lease. After a
        reboot the wall clock decides.
        """
        if self.boot == now.boot and self.expires_uptime is not None:
            return timedelta(seconds=self.expires_uptime) - now.uptime
        return self.expires_at - now.wall

    def ends_at(self: SessionColumns, now: Moment) -> datetime:
        """The end of the lease by the wall clock as it is now."""
        return now.shown(self.expires_at, self.boot, self.expires_uptime)

    def is_being_opened(self: SessionColumns, now: Moment, claimed: bool | None) -> bool:
        """Whether a process may still be making the session's parts.

        Such a session must not be closed by another process, which would miss the parts that are made next.
        The process that opens the session finds it closing and removes all parts itself. `claimed` is
        whether that process is alive; None (unknown) is treated as alive.
        """
        unfinished = self.container_id is None and self.end_reason != Reason.FAILED
        return unfinished and claimed is not False and self.age(now) <= OPENING_GRACE

    def age(self: SessionColumns, now: Moment) -> timedelta:
        """Return the time since the lease began."""
        return self.lease - self.time_left(now)
