"""Reports how much of the GPUs each user, group and profile held."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo

from gateway.domain import usage
from gateway.domain.clock import Clock
from gateway.domain.models import EndedSession, Session
from gateway.domain.usage import By, Line, Usage
from gateway.services.ports import Database, Rows


@dataclass(frozen=True)
class UsageLog:
    """Adds what ended sessions held. Days are those of `zone`; None is the host's zone."""

    zone: tzinfo | None = None

    def end(self, rows: Rows, session: Session, now: datetime) -> EndedSession:
        """Move the session to the history, and add what it held to the usage of its user."""
        group = rows.group_of(session.user_id) or ""
        rows.add_usage(usage.of_session(session, group, now, self.zone))
        return rows.end(session, now)

    def idle(self, rows: Rows, session: Session, since: datetime, until: datetime) -> None:
        """Add the time for which nobody used the session."""
        group = rows.group_of(session.user_id) or ""
        rows.add_usage(usage.idle(session, group, since, until, self.zone))


@dataclass(frozen=True)
class UsageReport:
    database: Database
    clock: Clock
    zone: tzinfo | None

    def today(self) -> date:
        return self.clock().wall.astimezone(self.zone).date()

    def lines(self, since: date, until: date, by: By, owner: str | None = None) -> Sequence[Line]:
        """Return the report of these days, both included; with `owner`, of one user. Live sessions count
        until now."""
        with self.database.begin() as rows:  # a session that ends meanwhile must count once
            found = [*rows.usage(since, until, owner), *self._live(rows, owner)]
        return usage.report((each for each in found if since <= each.day <= until), by)

    def _live(self, rows: Rows, owner: str | None) -> list[Usage]:
        now, groups = self.clock().wall, rows.groups()
        return [
            each
            for session in rows.live_sessions(owner)
            for each in usage.of_session(session, groups.get(session.user_id, ""), now, self.zone)
        ]
