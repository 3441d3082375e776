"""The waiting line on the GPUs of one server: what `waiting` needs of the occupancy. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import inf

from gateway.domain import line_plan
from gateway.domain.clock import Moment
from gateway.domain.live_session import SessionSlice
from gateway.domain.mig import Gpu, MigPolicy
from gateway.domain.occupancy import Occupancy
from gateway.domain.placement import Spot
from gateway.domain.reservation_book import Book
from gateway.domain.timeline import OpenGpu, Slice
from gateway.domain.waiting import Lease, Plan, Reservation, Waiter


@dataclass(frozen=True, slots=True)
class Line:
    """What a new session must respect: the requests that wait, and the `reservation` of the request that the
    session is for, if it waited."""

    waiters: tuple[Waiter, ...]
    now: Moment
    reservation: Reservation | None = None

    def planned(self, plan: Plan) -> "Line":
        """Return the same line with the reservations of the plan."""
        waiters = [replace(each, reservation=plan.reservations.get(each.id)) for each in self.waiters]
        return replace(self, waiters=tuple(waiters))


@dataclass(frozen=True)
class Forecast:
    """The occupancy of the GPUs from `now` on, as if the session `ending` ended now."""

    occupancy: Occupancy
    now: Moment
    ending: str | None = None

    def plan(
        self, waiters: Sequence[Waiter], demand: Mapping[str, float], overtaking: str | None = None
    ) -> Plan:
        return line_plan.plan(self._gpus(), self._leases(), waiters, self.now.wall, demand, overtaking)

    def spots(self, profile: str, lease: timedelta, line: Line) -> set[Spot]:
        """Return where a session may begin now without delaying a request in line or a maintenance."""
        if line.reservation:
            return {(line.reservation.gpu, line.reservation.slice.placement)}
        now = self.now.wall
        free = line_plan.spots(self._gpus(), self._leases(), line.waiters, profile, lease, now)
        return {(each.gpu, each.slice.placement) for each in free}

    def earliest(self, profile: str, lease: timedelta, line: Line) -> datetime | None:
        """Return when a session could begin if it were the last in line; None if that is unknown."""
        reservation = self.book(line).earliest(profile, lease)
        return reservation.start if reservation else None

    def book(self, line: Line) -> Book:
        """Return the timelines of the GPUs with the reservations that the line holds. The line must be
        planned already: a second plan can find an earlier begin, which nobody was promised."""
        book = Book(self._gpus(), self._leases(), self.now.wall, {})
        book.restore(line.waiters, above=None)
        return book

    def _gpus(self) -> list[OpenGpu]:
        standing: dict[str, list[Slice]] = {}
        for each in self.occupancy.occupied:
            if each.expires_at is None:
                standing.setdefault(each.gpu_uuid, []).append(Slice(each.profile, each.placement))
        return [
            OpenGpu(gpu, self._policy(gpu), standing.get(gpu.uuid, ()), self._closes_at(gpu.uuid))
            for gpu in self.occupancy.open
        ]

    def _policy(self, gpu: Gpu) -> MigPolicy:
        """The gateway gives whole GPUs, whatever the policy for instances is."""
        return MigPolicy.DYNAMIC if gpu.is_whole else self.occupancy.policy

    def _closes_at(self, uuid: str) -> float:
        cordon = self.occupancy.scheduled.get(uuid)
        return cordon.starts_at.timestamp() if cordon and cordon.starts_at else inf

    def _leases(self) -> list[Lease]:
        return [
            Lease(
                session.id,
                session.gpu,
                Slice(session.mig_profile, session.placement, session.borrowed),
                self._end(session),
            )
            for session in self.occupancy.sessions
            if session.gpu is not None and session.placement is not None
        ]

    def _end(self, session: SessionSlice) -> datetime:
        return min(session.ends_at, self.now.wall) if session.id == self.ending else session.ends_at
