"""Does the steps before the end of a lease: warnings, the user's own program, and SIGTERM."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event, Session
from gateway.domain.warnings import Due, Step, WarningPlan, record
from gateway.domain.words import Words, terminals
from gateway.errors import DatabaseUnavailable, GatewayError
from gateway.failpoints import reach
from gateway.services.notices import Notices
from gateway.services.ports import Database, Host

log = logging.getLogger(__name__)

_ACTIONS = {Step.WARN: Action.WARNED, Step.HOOK: Action.BEFORE_END, Step.SIGNAL: Action.SIGNALLED}


@dataclass(frozen=True)
class Warnings:
    """The host acts first, and the row records it afterwards. A step that a crash interrupts is therefore
    repeated."""

    database: Database
    host: Host
    notices: Notices
    plan: WarningPlan
    clock: Clock

    def due(self) -> Sequence[tuple[Session, Due]]:
        """Return every step that is due in a live session, the earliest end of a lease first."""
        now = self.clock()
        with self.database.read() as rows:
            ending = rows.to_warn(now, self.plan)
        return [(session, due) for session in ending for due in self.plan.due(session, now)]

    def do(self, session: Session, due: Due) -> None:
        """Do one step and record it, unless the lease was extended or the session was closed meanwhile.
        Raises `Unavailable`."""
        with self.database.read() as rows:
            row = rows.get(session.id)
        if row is None or not self._is_due(row, due):
            return
        detail = self._act(row, due)
        reach("after-warning-shown")
        with self.database.begin() as rows:
            row = rows.get(session.id)
            if row is None or not self._is_due(row, due):
                return
            record(row, due)
            if detail:
                rows.record(Event.of(self.clock().wall, _ACTIONS[due.step], detail, session=row))
        reach("after-warning-commit", DatabaseUnavailable)
        if due.step is Step.WARN:
            self.notices.attempt(session)

    def note_failure(self, session: Session, due: Due, error: GatewayError) -> None:
        """Record that a step could not be done. Raises `DatabaseUnavailable`."""
        detail = f"{_about(due)}could not be done: {error}"
        with self.database.begin() as rows:
            if rows.get(session.id):
                rows.record(Event.of(self.clock().wall, _ACTIONS[due.step], detail, session=session))

    def _is_due(self, session: Session, due: Due) -> bool:
        return due in self.plan.due(session, self.clock())

    def _act(self, session: Session, due: Due) -> str:
        """Do the step. Return the detail for the audit log; empty if there was nothing to do."""
        now = self.clock()
        remaining = session.time_left(now)
        match due.step:
            case Step.WARN:
                latest_end = self.notices.limit.latest_end(session)
                words: Words = self.notices.words
                text = words.warning(now.wall + remaining, remaining, latest_end, now.wall)
                return _about(due) + terminals(self.host.tell(session, text))
            case Step.HOOK:
                return "started" if self.host.run_hook(session, _seconds(remaining)) else ""
            case Step.SIGNAL:
                number = self.host.signal(session)
                return f"SIGTERM to {number} processes" if number else ""


def _about(due: Due) -> str:
    return f"{due.minutes} min, " if due.step is Step.WARN else ""


def _seconds(remaining: timedelta) -> int:
    return max(0, round(remaining.total_seconds()))
