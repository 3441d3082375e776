"""A live session without its keys and texts: what a decision about all sessions needs. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from gateway.domain.clock import Moment
from gateway.domain.leased import Leased
from gateway.domain.mig import Placement
from gateway.domain.states import Status


class SessionSlice(NamedTuple):
    """What planning reads of a live session: its slice, its address, and until when. Each new session reads
    those of all others, so it has no column more, and is a tuple, which is made fastest.

    `expires_at` is the end of the lease that is recorded, and `ends_at` the same by the wall clock as it is
    now. A session that closes ends now."""

    id: str
    gpu: str | None
    mig_profile: str
    placement: Placement | None
    borrowed: bool
    address: str | None
    expires_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class LiveSession(Leased):
    """The columns of the same names in the row of a session. Reading ten thousand of them takes a fifth of
    the time of whole rows."""

    id: str
    user_id: str
    status: str
    end_reason: str | None
    mig_profile: str
    gpu: str | None
    start: int | None
    size: int | None
    gpu_uuid: str | None
    borrowed: bool
    problem: str | None
    container_id: str | None
    address: str | None
    created_at: datetime
    expires_at: datetime
    boot: str | None
    expires_uptime: float | None
    lease_seconds: int
    opened_at: datetime | None
    idle_since: datetime | None
    latest_end: datetime | None
    waited_for_by: str | None
    gpu_share: float | None
    max_lease_minutes: int | None
    warned_for: int | None
    message: str | None

    def slice(self, now: Moment) -> SessionSlice:
        """Return what planning reads of the session."""
        ends_at = self.ends_at(now)
        if self.status == Status.CLOSING:
            ends_at = min(ends_at, now.wall)
        return SessionSlice(
            self.id,
            self.gpu,
            self.mig_profile,
            self.placement,
            self.borrowed,
            self.address,
            self.expires_at,
            ends_at,
        )


@dataclass(frozen=True, slots=True)
class ListedSession(LiveSession):
    """With the columns that only a list of sessions shows."""

    extended_minutes: int
    image: str | None
    note: str | None
