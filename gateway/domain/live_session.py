"""A live session without its keys and texts: what a decision about all sessions needs. Pure."""

from dataclasses import dataclass
from datetime import datetime

from gateway.domain.leased import Leased


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


@dataclass(frozen=True, slots=True)
class ListedSession(LiveSession):
    """With the columns that only a list of sessions shows."""

    extended_minutes: int
    image: str | None
    note: str | None
