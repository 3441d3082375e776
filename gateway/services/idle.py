"""Finds sessions that nobody uses, warns their users, and ends them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from gateway.domain import activity
from gateway.domain.activity import GpuUse, IdlePolicy, Probe, Reading
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event, Session
from gateway.domain.policies import Policy, Rule
from gateway.domain.states import Reason, Status
from gateway.domain.words import terminals
from gateway.errors import GatewayError, PolicyRefused, Promise
from gateway.services.closing import Closing
from gateway.services.notices import Notices
from gateway.services.ports import Database, Host, Rows

log = logging.getLogger(__name__)

_LONGEST_KEEP_HOURS = 24


class Waiters(Protocol):
    """Those who wait for a session."""

    def gain(self, rows: Rows, session: Session) -> bool:
        """Whether somebody gets a session earlier if this one ends now."""

    def waits_for(self, session: Session) -> Promise | None:
        """Return what the first one was promised who gets a session earlier if this one ends now."""


@dataclass(frozen=True, slots=True)
class Activity:
    """What is known about the use of a live session. `ends_at` is None if it is not idle, or if idle sessions
    do not end. `is_watched`: whether the limit of the user is not 0. `waiting` is who gets a session earlier
    if this one, which is idle, ends."""

    session: Session
    reading: Reading | None
    ends_at: datetime | None
    is_watched: bool
    policy: IdlePolicy
    waiting: Promise | None


@dataclass(frozen=True)
class Idle:
    """`limit` is that of the settings, zero for never. The policy of a user decides before it. `silence` is
    how long an open connection may be silent before it counts as idle, zero for ever."""

    database: Database
    host: Host
    closing: Closing
    notices: Notices
    waiters: Waiters
    limit: timedelta
    policy: IdlePolicy
    silence: timedelta
    clock: Clock

    def due(self) -> Sequence[Session]:
        """Return the sessions whose signals are to be read now."""
        now = self.clock().wall
        with self.database.read() as rows:
            groups, policies = rows.groups(), rows.policies()
            if not self.limit and not any(Rule.IDLE_MINUTES in rules for rules in policies.values()):
                return []
            due = []
            for session_id, user_id, signals, idle_since in rows.idle_signals():
                limit = self._limit(Policy.of(policies, user_id, groups.get(user_id)))
                if limit and _is_due(signals, idle_since, limit, now):
                    due.append(session_id)
            return rows.some(due)

    def examine(self, session: Session) -> None:
        """Read the signals of a session, and do what follows. Raises `DatabaseUnavailable`."""
        probe, gpu = self._probe(session), self._gpu(session)
        with self.database.begin() as rows:
            row = rows.get(session.id)
            if row is None or row.status != Status.ACTIVE:
                return
            limit = self._limit_of(rows, row.user_id)
            now = self.clock().wall
            self._record(
                rows, row, activity.read(probe, gpu, row.keep_until, reading_of(row), now, self.silence)
            )
            ends_at = _ends_at(row, limit)
            may_end = ends_at is not None and self._may_end(rows, row)
            is_over = may_end and ends_at is not None and self._is_over(row, ends_at, limit)
            warn = may_end and not is_over and row.idle_warned_at is None
            warn = warn and ends_at is not None and self.clock().wall >= ends_at - activity.notice(limit)
            if is_over:
                self.closing.begin(rows, row, Reason.IDLE)
        if is_over:
            log.info("session is idle and ends", extra=row.named)
            self.closing.finish(row)
        elif warn:
            self._warn(row, limit)

    def activity(self, session_id: str, owner: str | None = None) -> Activity:
        """Return what is known of a live session. Raises as `Rows.live`."""
        with self.database.read() as rows:
            session = rows.live(session_id, owner)
            limit = self._limit_of(rows, session.user_id)
        ends_at = _ends_at(session, limit) if limit else None
        waiting = self.waiters.waits_for(session) if ends_at else None
        return Activity(session, reading_of(session), ends_at, bool(limit), self.policy, waiting)

    def keep(self, session_id: str, by: timedelta, owner: str | None = None) -> Activity:
        """Do not end a session for idleness until then. Zero takes that back. Raises as `Rows.live`, and
        `PolicyRefused`."""
        with self.database.begin() as rows:
            session = rows.live(session_id, owner)
            policy = Policy.of(rows.policies(), session.user_id, rows.group_of(session.user_id))
            most = policy.rules.get(Rule.MAX_KEEP_HOURS, _LONGEST_KEEP_HOURS)
            if by > timedelta(hours=most):
                raise _too_long(most, by)
            now = self.clock().wall
            session.keep_until = now + by if by else None
            if reading := reading_of(session):
                kept = reading.kept(session.keep_until, now)
                session.signals = kept.as_json()
                session.idle_since = session.idle_since or now if kept.is_idle else None
            session.idle_warned_at = None
            detail = f"until {session.keep_until:%Y-%m-%d %H:%M} UTC" if session.keep_until else "no longer"
            rows.record(Event.of(now, Action.KEPT, detail, session=session))
        return self.activity(session_id, owner)

    def _probe(self, session: Session) -> Probe | None:
        try:
            return self.host.activity(session)
        except GatewayError as error:
            log.info("a session did not say what it does", extra={**session.named, "error": str(error)})
            return None

    def _gpu(self, session: Session) -> GpuUse:
        try:
            return self.host.gpu_use(session)
        except GatewayError:
            return GpuUse(None)

    def _record(self, rows: Rows, row: Session, reading: Reading) -> None:
        before = reading_of(row)
        if reading.is_idle and row.idle_since and before:
            self.closing.usage.idle(rows, row, before.at, reading.at)
        row.signals = reading.as_json()
        if not reading.is_idle:
            row.idle_since = row.idle_warned_at = None
        elif row.idle_since is None:
            row.idle_since = reading.at

    def _may_end(self, rows: Rows, row: Session) -> bool:
        return self.policy is IdlePolicy.ALWAYS or self.waiters.gain(rows, row)

    def _is_over(self, row: Session, ends_at: datetime, limit: timedelta) -> bool:
        """Only a user who was warned loses the session, and only after the time that the warning named."""
        if row.idle_warned_at is None:
            return False
        return self.clock().wall >= max(ends_at, row.idle_warned_at + activity.notice(limit))

    def _warn(self, session: Session, limit: timedelta) -> None:
        """Tell the user first, and record it afterwards: a crash in between warns twice."""
        now = self.clock().wall
        ends_at = max(_ends_at(session, limit) or now, now + activity.notice(limit))
        text = self.notices.words.idle(ends_at, limit, now)
        detail = f"idle, ends at {ends_at:%H:%M} UTC, {terminals(self.host.tell(session, text))}"
        with self.database.begin() as rows:
            row = rows.get(session.id)
            if row and row.idle_since == session.idle_since:
                row.idle_warned_at = now
                rows.record(Event.of(now, Action.IDLE, detail, session=row))

    def _limit_of(self, rows: Rows, user_id: str) -> timedelta:
        return self._limit(Policy.of(rows.policies(), user_id, rows.group_of(user_id)))

    def _limit(self, policy: Policy) -> timedelta:
        minutes = policy.rules.get(Rule.IDLE_MINUTES)
        return self.limit if minutes is None else timedelta(minutes=minutes)


def _too_long(most: int, by: timedelta) -> PolicyRefused:
    asked = by // timedelta(hours=1)
    message = f"A session can be kept for at most {most} hours at a time: ask for less, and again later."
    return PolicyRefused(message, Rule.MAX_KEEP_HOURS, most, asked, None)


def _is_due(
    signals: Mapping[str, Any] | None, idle_since: datetime | None, limit: timedelta, now: datetime
) -> bool:
    before = None if signals is None else Reading.of_json(signals)
    at = activity.due_at(before, idle_since + limit if idle_since else None, limit)
    return at is None or at <= now


def reading_of(session: Session) -> Reading | None:
    return None if session.signals is None else Reading.of_json(session.signals)


def _ends_at(session: Session, limit: timedelta) -> datetime | None:
    return None if session.idle_since is None else session.idle_since + limit
