"""Reads the audit log, and writes denials to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event
from gateway.errors import SessionNotFound
from gateway.services.ports import Database


@dataclass(frozen=True)
class AuditLog:
    database: Database
    clock: Clock

    def of_session(self, session_id: str, owner: str | None = None) -> Sequence[Event]:
        """Return the events of a live or an ended session, oldest first. With `owner`, sessions of other
        users are not found. Raises `SessionNotFound`."""
        with self.database.read() as rows:
            session = rows.get(session_id) or rows.get_ended(session_id)
            events = rows.events(session_id=session_id)
        users = {session.user_id} if session else {event.user_id for event in events}
        if not users or owner is not None and owner not in users:
            raise SessionNotFound(session_id)
        return events

    def latest(
        self,
        *,
        session_id: str | None,
        user_id: str | None,
        since: datetime | None,
        after: int | None,
        limit: int,
    ) -> Sequence[Event]:
        """Return the latest `limit` events that match, newest last. With `after`, the id of an event, return
        the first `limit` events behind it: who asks again and again misses none."""
        with self.database.read() as rows:
            return rows.events(session_id=session_id, user_id=user_id, since=since, after=after, limit=limit)

    def deny(self, detail: str, user_id: str | None = None) -> None:
        """Record a denial. Raises `DatabaseUnavailable`, `DiskFull`."""
        with self.database.begin() as rows:
            rows.record(Event.of(self.clock().wall, Action.DENIED, detail, user_id=user_id))
