"""Returns the samples of /metrics, all of them from the database."""

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.domain.clock import Clock
from gateway.domain.counters import Counter, Increment
from gateway.domain.metrics import METRICS, Kind, Metric, Reading, Sample
from gateway.services.ports import Database, Rows

_STALE = timedelta(minutes=3)  # an older reading is not served: its values would mislead


@dataclass(frozen=True)
class Metrics:
    """With `names_users`, the seconds of slices have the label `user_id`."""

    database: Database
    clock: Clock
    version: str
    names_users: bool
    last_tick: Callable[[], datetime | None]

    def catalogue(self) -> Iterator[Metric]:
        """Return every metric with the labels that these settings give it."""
        for metric in METRICS:
            if metric.name == Counter.GPU_SECONDS and self.names_users:
                yield Metric(metric.name, metric.kind, metric.help, (*metric.labels, "user_id"))
            else:
                yield metric

    def samples(self) -> Iterator[Sample]:
        """Return all samples; those of a histogram are as its counter has them. Raises
        `DatabaseUnavailable`."""
        now = self.clock().wall
        yield Sample("build_info", (self.version,), 1.0)
        if ticked := self.last_tick():
            yield Sample("reaper_tick_timestamp_seconds", (), ticked.timestamp())
        with self.database.read() as rows:
            reading = _reading(rows, now)
            if reading:
                yield from reading[0].samples
                yield Sample("reading_timestamp_seconds", (), reading[1].timestamp())
            yield from _sessions(rows, reading[0] if reading else None)
            waiting = Tally(request.mig_profile for request in rows.line())
            yield from (Sample("waiting", (profile,), number) for profile, number in waiting.items())
            for session_id, since in rows.idle_sessions():
                yield Sample("session_idle_seconds", (session_id,), max(0.0, (now - since).total_seconds()))
            yield from (Sample("workspace_bytes", (user,), size) for user, size in rows.workspace_sizes())
            yield from self._counters(rows.counts(now))

    def _counters(self, counted: Sequence[Increment]) -> Iterator[Sample]:
        totals: defaultdict[tuple[str, tuple[str, ...]], float] = defaultdict(float)
        for metric in METRICS:  # an alert needs the zero before the first event
            if metric.kind is Kind.COUNTER and not metric.labels:
                totals[metric.name, ()] = 0.0
        for each in counted:
            if each.counter == Counter.GPU_SECONDS and not self.names_users:
                totals[each.counter, each.labels[:1]] += each.by
            else:
                totals[each.counter, each.labels] += each.by
        yield from (Sample(name, labels, value) for (name, labels), value in totals.items())


def _reading(rows: Rows, now: datetime) -> tuple[Reading, datetime] | None:
    last = rows.last_reading()
    return last if last and now - last[1] <= _STALE else None


def _sessions(rows: Rows, reading: Reading | None) -> Iterator[Sample]:
    numbers: Tally[tuple[str, str]] = Tally()
    slices = reading.slices if reading else {}
    for session_id, user_id, status, profile, gpu, mig_uuid, expires_at in rows.figures():
        numbers[status, profile] += 1
        yield Sample("session_expires_timestamp_seconds", (session_id,), expires_at.timestamp())
        if gpu and mig_uuid and mig_uuid in slices:
            index, gi_id = slices[mig_uuid]
            instance = str(gi_id) if gi_id >= 0 else ""  # a whole GPU has none
            labels = (session_id, user_id, str(index), gpu, instance, profile, mig_uuid)
            yield Sample("session_info", labels, 1.0)
    yield from (Sample("sessions", labels, number) for labels, number in numbers.items())
