"""Reads over all live sessions. They select columns, because whole rows take five times as long."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, orm, select, tuple_, type_coerce, update

from gateway.domain.clock import Moment
from gateway.domain.live_session import ListedSession, LiveSession, SessionSlice
from gateway.domain.mig import Placement
from gateway.domain.models import EndedSession, Session, UtcDateTime, route_of
from gateway.domain.pipe import Pipe
from gateway.domain.plan import Started
from gateway.domain.states import Status
from gateway.domain.warnings import Step, WarningPlan

_OLDEST_FIRST = (Session.created_at, Session.id)
_TABLE = Session.__table__
_COLUMNS = tuple(_TABLE.c[field.name] for field in dataclasses.fields(LiveSession))
_LISTED = tuple(_TABLE.c[field.name] for field in dataclasses.fields(ListedSession))
_SLICE_COLUMNS = tuple(
    _TABLE.c[name] for name in ("id", "gpu", "mig_profile", "start", "size", "borrowed", "address")
)
_IN_ORDER = (_TABLE.c.created_at, _TABLE.c.id)
_DONE_FOR = {
    Step.WARN: Session.warned_for,
    Step.HOOK: Session.hook_for,
    Step.SIGNAL: Session.signalled_for,
}
_AT_ONCE = 1000  # ids in one statement


def batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Split ids for statements that name them: the databases limit the parameters of one statement."""
    return (ids[start : start + _AT_ONCE] for start in range(0, len(ids), _AT_ONCE))


class LiveRows:
    """A part of `SessionRows`."""

    _session: orm.Session

    def list(self) -> Sequence[Session]:
        """Return the whole row of every live session, oldest first."""
        return self._session.scalars(select(Session).order_by(*_OLDEST_FIRST)).all()

    def live_sessions(self, owner: str | None = None) -> Sequence[LiveSession]:
        """Return every live session, or those of one user, oldest first."""
        selected = select(*_COLUMNS).order_by(*_IN_ORDER)
        if owner is not None:
            selected = selected.where(_TABLE.c.user_id == owner)
        self._session.flush()  # a statement of columns of the table does not do it
        return [LiveSession(*columns) for columns in self._session.execute(selected).all()]

    def slices(self, now: Moment) -> Sequence[SessionSlice]:
        """Return what planning reads of every live session. Ten thousand of them take about 20 ms."""
        uptime = case((_TABLE.c.boot == now.boot, _TABLE.c.expires_uptime))
        is_closing = _TABLE.c.status == Status.CLOSING
        selected = select(*_SLICE_COLUMNS, _TABLE.c.expires_at, uptime, is_closing)
        self._session.flush()

        def ends_at(expires_at: datetime, due: float | None, closes: bool) -> datetime:
            ends = now.shown(expires_at, now.boot, due)
            return min(ends, now.wall) if closes else ends

        placement = cache(
            lambda start, size: None if start is None or size is None else Placement(start, size)
        )
        return [
            SessionSlice(
                *(id, gpu, profile, placement(start, size), borrowed, address, expires_at),
                expires_at if due is None and not closes else ends_at(expires_at, due, closes),
            )
            for id, gpu, profile, start, size, borrowed, address, expires_at, due, closes in (
                self._session.execute(selected).all()
            )
        ]

    def limited(self) -> Mapping[str, tuple[datetime | None, str | None]]:
        """Return `latest_end` and `waited_for_by` of the sessions whose extensions are limited, by their
        ids."""
        columns = select(Session.id, Session.latest_end, Session.waited_for_by)
        limited = self._session.execute(columns.where(Session.latest_end.is_not(None)))
        return {each.id: (each.latest_end, each.waited_for_by) for each in limited}

    def some(self, ids: Sequence[str]) -> Sequence[Session]:
        """Return the rows of the live sessions with these ids."""
        return [
            row
            for batch in batches(ids)
            for row in self._session.scalars(select(Session).where(Session.id.in_(batch)))
        ]

    def vacate(self, started: Started, session_id: str) -> None:
        """Take the address and the slice, which this session has now, from every other row. A cluster gives
        them to the next session as soon as a pod is gone, also while the row of its session still closes."""
        other, slice_ = Session.id != session_id, started.allocation
        place = (Session.gpu == slice_.gpu, Session.start == slice_.placement.start)
        self._session.execute(
            update(Session).where(other, Session.address == started.address).values(address=None)
        )
        self._session.execute(update(Session).where(other, *place).values(gpu=None, start=None, size=None))

    def known(self, ids: Collection[str]) -> set[str]:
        """Return those of these ids that a live session or one in the history has."""
        found = set[str]()
        for batch in batches(sorted(ids)):
            for table in (Session, EndedSession):
                found.update(self._session.scalars(select(table.id).where(table.id.in_(batch))))
        return found

    def page(
        self,
        owner: str | None = None,
        after: tuple[datetime, str] | None = None,
        limit: int | None = None,
    ) -> Sequence[ListedSession]:
        page = select(*_LISTED).order_by(*_IN_ORDER).limit(limit)
        if owner is not None:
            page = page.where(_TABLE.c.user_id == owner)
        if after is not None:
            page = page.where(tuple_(*_IN_ORDER) > after)
        self._session.flush()
        return [ListedSession(*columns) for columns in self._session.execute(page).all()]

    def statuses(self) -> Sequence[tuple[str, str, str, datetime]]:
        """Return id, user, status and end of the lease of each live session."""
        columns = select(Session.id, Session.user_id, Session.status, Session.expires_at)
        return [(*each,) for each in self._session.execute(columns.order_by(Session.id))]

    def pipes(self) -> Sequence[Pipe]:
        """Return the SSH route of each active session that has one, oldest first."""
        columns = select(
            Session.id,
            Session.user_id,
            Session.address,
            Session.public_keys,
            Session.private_key,
            Session.host_key,
        )
        active = columns.where(Session.status == Status.ACTIVE).order_by(*_OLDEST_FIRST)
        routes = (route_of(*each) for each in self._session.execute(active))
        return [route for route in routes if route]

    def to_disconnect(self) -> Sequence[str]:
        """Return the ids of the sessions whose connections must still be closed."""
        return self._session.scalars(select(Session.id).where(Session.disconnect_due)).all()

    def unclaimed(self, now: Moment, within: timedelta) -> Sequence[str]:
        """Return the ids of the active sessions that nobody has logged in to since they were opened, `within`
        ago or earlier."""
        unclaimed = select(Session).where(Session.is_unclaimed, Session.status == Status.ACTIVE)
        return [each.id for each in self._session.scalars(unclaimed) if each.age(now) >= within]

    def closing(self) -> Sequence[Session]:
        return self._session.scalars(select(Session).where(Session.status == Status.CLOSING)).all()

    def idle_signals(self) -> Sequence[tuple[str, str, dict[str, Any] | None, datetime | None]]:
        """Return id, user, `signals` and `idle_since` of each active session."""
        columns = select(Session.id, Session.user_id, Session.signals, Session.idle_since)
        active = columns.where(Session.status == Status.ACTIVE)
        return [(*each,) for each in self._session.execute(active)]

    def expired(self, now: Moment) -> Sequence[Session]:
        """Return the expired sessions that are not closing yet. `Session.time_left` has the same rule."""
        over = (_ends_within(now, timedelta()), Session.status != Status.CLOSING)
        return self._session.scalars(select(Session).where(*over).order_by(Session.expires_at)).all()

    def to_warn(self, now: Moment, plan: WarningPlan) -> Sequence[Session]:
        """Return the active sessions in which a step of `plan` is due, the earliest end of a lease first.
        `WarningPlan.due` has the same rule."""
        steps = [_step_is_due(now, step, before) for step, before in plan.steps]
        due = (or_(*steps), Session.status == Status.ACTIVE)
        return self._session.scalars(select(Session).where(*due).order_by(Session.expires_at)).all()

    def next_expiry(self, now: Moment) -> timedelta | None:
        """Return the time until the next lease ends, of sessions that are not closing; None without one."""
        since_boot = func.min(case((Session.boot == now.boot, Session.expires_uptime)))
        before = func.min(case((Session.boot.is_distinct_from(now.boot), Session.expires_at)))
        uptime, wall = self._session.execute(
            select(since_boot, type_coerce(before, UtcDateTime)).where(Session.status != Status.CLOSING)
        ).one()
        remaining = [] if uptime is None else [timedelta(seconds=uptime) - now.uptime]
        remaining += [] if wall is None else [wall - now.wall]
        return min(remaining, default=None)


def _ends_within(now: Moment, within: timedelta) -> ColumnElement[bool]:
    uptime, wall = now.uptime + within, now.wall + within
    since_boot = and_(Session.boot == now.boot, Session.expires_uptime <= uptime.total_seconds())
    return or_(since_boot, and_(Session.boot.is_distinct_from(now.boot), Session.expires_at <= wall))


def _step_is_due(now: Moment, step: Step, before: timedelta) -> ColumnElement[bool]:
    level = before // timedelta(minutes=1)
    is_undone: ColumnElement[bool] = _DONE_FOR[step].is_distinct_from(Session.lease_seconds)
    if step is Step.WARN:
        is_undone = or_(is_undone, Session.warned_level.is_(None), Session.warned_level > level)
    return and_(
        _ends_within(now, before), is_undone, Session.lease_seconds >= 2 * round(before.total_seconds())
    )
