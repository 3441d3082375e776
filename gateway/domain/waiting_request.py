"""The row of a request in the waiting line."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Double, ForeignKey, String, false
from sqlalchemy.orm import Mapped, mapped_column

from gateway.domain.audit import actor
from gateway.domain.clock import Moment
from gateway.domain.mig import Placement
from gateway.domain.models import Base, EndedSession
from gateway.domain.states import KeysFrom, Reason
from gateway.domain.timeline import Slice
from gateway.domain.waiting import Reservation, Waiter

MOST_ATTEMPTS = 30  # to open the session, which take more than two hours
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=5), timedelta(minutes=5)


class WaitingRequest(Base):
    """A request for a session that waits. Its id becomes the session's. The row stays until the session is
    open, so that a failure to open it loses no place.

    `public_keys` are the keys that were given or made; empty if stored keys are to open the session. The
    request gives up at `wait_until`, when the server has been up for `wait_uptime` seconds since the boot
    `boot`. The other columns are its reservation, None without one, which begins at `starts_at`, and the
    attempts to open the session, which failed.
    """

    __tablename__ = "waiting"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), unique=True)
    mig_profile: Mapped[str] = mapped_column(String(64))
    image: Mapped[str] = mapped_column(String(255))
    lease_seconds: Mapped[int]
    public_keys: Mapped[list[str]]
    keys_from: Mapped[str] = mapped_column(String(8))
    priority: Mapped[int] = mapped_column(default=0)
    asked_at: Mapped[datetime]
    wait_until: Mapped[datetime]
    wait_uptime: Mapped[float] = mapped_column(Double)
    boot: Mapped[str] = mapped_column(String(36))
    gpu: Mapped[str | None] = mapped_column(String(96))
    start: Mapped[int | None]
    size: Mapped[int | None]
    borrowed: Mapped[bool] = mapped_column(default=False, server_default=false())
    starts_at: Mapped[datetime | None]
    starts_uptime: Mapped[float | None] = mapped_column(Double)
    starts_boot: Mapped[str | None] = mapped_column(String(36))
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    retry_at: Mapped[datetime | None]

    @classmethod
    def made(
        cls,
        session_id: str,
        user_id: str,
        mig_profile: str,
        lease: timedelta,
        wait: timedelta,
        now: Moment,
        *,
        priority: int = 0,
        after: datetime | None,
        image: str,
        public_keys: Sequence[str],
        keys_from: KeysFrom,
    ) -> "WaitingRequest":
        """`after` is when the last request before this one was made, None without one."""
        asked_at = max(now.wall, after + timedelta(microseconds=1)) if after else now.wall
        return cls(
            id=session_id,
            user_id=user_id,
            mig_profile=mig_profile,
            image=image,
            lease_seconds=round(lease.total_seconds()),
            public_keys=[] if keys_from == KeysFrom.STORED else list(public_keys),
            keys_from=keys_from,
            priority=priority,
            asked_at=asked_at,
            wait_until=now.wall.replace(microsecond=0) + wait,
            wait_uptime=(now.uptime + wait).total_seconds(),
            boot=now.boot,
            attempts=0,
        )

    @property
    def named(self) -> dict[str, str]:
        """The fields that identify the request in a log line."""
        return {"session_id": self.id, "user_id": self.user_id}

    @property
    def lease(self) -> timedelta:
        return timedelta(seconds=self.lease_seconds)

    def waiter(self, now: Moment) -> Waiter:
        """The request as the plan sees it, its times by the wall clock as it is now."""
        until = now.shown(self.wait_until, self.boot, self.wait_uptime)
        reservation = self._reservation(now)
        return Waiter(self.id, self.mig_profile, self.lease, self.asked_at, until, self.priority, reservation)

    def follow_wall_clock(self, now: Moment) -> None:
        """If the wall clock was set, correct the times that users see."""
        self.wait_until = now.shown(self.wait_until, self.boot, self.wait_uptime)
        if self.starts_at:
            self.starts_at = now.shown(self.starts_at, self.starts_boot, self.starts_uptime)

    def promise(self, reservation: Reservation | None, now: Moment) -> None:
        """Hold this reservation; None: hold none."""
        if reservation == self._reservation(now):
            return
        if reservation is None:
            self.gpu = self.start = self.size = None
            self.starts_at = self.starts_uptime = self.starts_boot = None
            self.borrowed = False
            return
        placement, left = reservation.slice.placement, reservation.start - now.wall
        self.gpu, self.start, self.size = reservation.gpu, placement.start, placement.size
        self.borrowed, self.starts_at = reservation.slice.is_borrowed, reservation.start
        self.starts_boot, self.starts_uptime = now.boot, (now.uptime + left).total_seconds()

    def gives_up(self, now: Moment) -> bool:
        return now.shown(self.wait_until, self.boot, self.wait_uptime) <= now.wall

    def can_try(self, now: datetime) -> bool:
        """Whether the session may be opened now, after the pause that follows a failure."""
        return self.retry_at is None or self.retry_at <= now

    def fail(self, now: datetime) -> None:
        """Note that opening the session failed, and pause before the next attempt."""
        self.attempts += 1
        self.retry_at = now + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self.attempts - 1))

    def ended(self, reason: Reason, now: datetime, note: str | None = None) -> EndedSession:
        """Return the record to keep of a request that leaves the line without a session."""
        return EndedSession(
            id=self.id,
            user_id=self.user_id,
            mig_profile=self.mig_profile,
            image=self.image,
            created_at=self.asked_at,
            expires_at=self.wait_until,
            ended_at=now,
            reason=reason,
            ended_by=actor.get() if reason == Reason.DELETED else None,
            note=note,
            public_keys=list(self.public_keys),
        )

    def _reservation(self, now: Moment) -> Reservation | None:
        if self.gpu is None or self.start is None or self.size is None or self.starts_at is None:
            return None
        starts_at = now.shown(self.starts_at, self.starts_boot, self.starts_uptime)
        slice_ = Slice(self.mig_profile, Placement(self.start, self.size), self.borrowed)
        return Reservation(self.gpu, slice_, starts_at)
