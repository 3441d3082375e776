"""The rows of the metrics: counters, the last reading, and the figures of live sessions."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from sqlalchemy import DateTime, Double, String, cast, literal, null, orm, select, union_all, update

from gateway.domain.counters import Counter, Increment, held
from gateway.domain.metrics import Reading
from gateway.domain.models import Session, User
from gateway.domain.records import Count, LastReading

_LIVE = "live"  # no counter has this name


class CounterRows:
    """A part of `SessionRows`."""

    _session: orm.Session

    def count(self, increments: Iterable[Increment]) -> None:
        """Add to counters. Transactions run one after another, so no other one adds meanwhile."""
        for increment in increments:
            labels = json.dumps(increment.labels)
            row = (Count.name == increment.counter, Count.labels == labels)
            added = update(Count).where(*row).values(value=Count.value + increment.by)
            if self._session.connection().execute(added).rowcount == 0:
                self._session.add(Count(name=increment.counter, labels=labels, value=increment.by))
                self._session.flush()

    def counts(self, now: datetime) -> Sequence[Increment]:
        """Return every counter. The seconds of live sessions until `now` are included.

        One statement reads both, so that a session that ends meanwhile is counted once.
        """
        live = select(
            literal(_LIVE, String),
            Session.mig_profile,
            Session.user_id,
            Session.opened_at,
            literal(0.0, Double),
        ).where(Session.opened_at.is_not(None))
        counted = select(
            Count.name, Count.labels, literal("", String), cast(null(), DateTime(timezone=True)), Count.value
        )
        return [
            held(labels, user_id, opened_at, now)
            if name == _LIVE
            else Increment(Counter(name), tuple(json.loads(labels)), value)
            for name, labels, user_id, opened_at, value in self._session.execute(union_all(live, counted))
        ]

    def publish_reading(self, reading: Reading, now: datetime) -> None:
        row = self._session.get(LastReading, 1)
        if row is None:
            self._session.add(LastReading(id=1, at=now, content=reading.as_json()))
        else:
            row.at, row.content = now, reading.as_json()

    def last_reading(self) -> tuple[Reading, datetime] | None:
        row = self._session.get(LastReading, 1)
        return None if row is None else (Reading.of_json(row.content), row.at)

    def figures(self) -> Sequence[tuple[str, str, str, str, str | None, str | None, datetime]]:
        """Return id, user, status, profile, GPU, MIG device and end of each live session. Whole rows would
        take four times as long."""
        columns = (
            Session.id,
            Session.user_id,
            Session.status,
            Session.mig_profile,
            Session.gpu,
            Session.gpu_uuid,
            Session.expires_at,
        )
        return self._session.execute(select(*columns)).all()

    def idle_sessions(self) -> Sequence[tuple[str, datetime]]:
        """Return the ids of the idle sessions, and since when they are idle."""
        idle = select(Session.id, Session.idle_since).where(Session.idle_since.is_not(None))
        return [(session_id, since) for session_id, since in self._session.execute(idle) if since]

    def workspace_sizes(self) -> Sequence[tuple[str, int]]:
        """Return the users whose workspace was measured, with its size in bytes."""
        sizes = select(User.id, User.workspace_bytes).where(User.workspace_bytes.is_not(None))
        return [(user_id, int(size or 0)) for user_id, size in self._session.execute(sizes)]
