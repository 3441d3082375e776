"""How much of the GPUs each user held, by day: what a session adds, and reports. Pure."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum

from gateway.domain.leased import SessionColumns

_DAY = timedelta(days=1)
_SLICES = re.compile(r"([1-9][0-9]?)g")
_COMPUTE_SLICES = 7  # of every MIG-capable GPU, except the A30


class By(StrEnum):
    """What a line of a report is about."""

    USER = "user"
    GROUP = "group"
    PROFILE = "profile"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the sessions of one kind held on one day. `group` is empty for a user without one.

    A session counts on the day on which it opened. `gpu_seconds` are the seconds of the leases, each times
    the share of a GPU that its slice is. `idle_seconds` are those seconds of the leases in which nobody used
    the session, as far as idle sessions are looked for.
    """

    day: date
    user_id: str
    group: str
    mig_profile: str
    sessions: int
    lease_seconds: int
    gpu_seconds: float
    idle_seconds: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a report. What the report does not divide by is None."""

    user: str | None
    group: str | None
    profile: str | None
    day: date | None
    sessions: int
    lease_seconds: int
    gpu_seconds: float
    idle_seconds: int


def idle(
    session: SessionColumns, group: str, since: datetime, until: datetime, zone: tzinfo | None
) -> Iterator[Usage]:
    """Return the time for which nobody used the session, for each day of the time zone."""
    for day, seconds in by_day(since, until, zone):
        yield Usage(day, session.user_id, group, session.mig_profile, 0, 0, 0.0, seconds)


def of_session(session: SessionColumns, group: str, until: datetime, zone: tzinfo | None) -> Iterator[Usage]:
    """Return what the session held until then, for each day of the time zone; None is the host's zone.

    The seconds are those between the session's events `opened` and `ended` in the audit log. A session that
    never became active held nothing.
    """
    if session.opened_at is None:
        return
    share = share_held(session.mig_profile, session.gpu_share)
    for number, (day, seconds) in enumerate(by_day(session.opened_at, until, zone)):
        is_first = number == 0
        yield Usage(day, session.user_id, group, session.mig_profile, int(is_first), seconds, seconds * share)


def by_day(since: datetime, until: datetime, zone: tzinfo | None) -> Iterator[tuple[date, int]]:
    """Return the whole seconds of the interval on each day of the time zone, from the first day on."""
    begin = since.astimezone(UTC).replace(microsecond=0)
    end = max(begin, until.astimezone(UTC).replace(microsecond=0))
    day = begin.astimezone(zone).date()
    while True:
        midnight = min(end, max(begin, _midnight(day + _DAY, zone)))
        yield day, round((midnight - begin).total_seconds())
        begin, day = midnight, day + _DAY
        if begin >= end:
            return


def hours(number: float) -> str:
    """A number of hours as people write it: `20`, `18.4` or `123456.75`."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def share_of(mig_profile: str) -> float:
    """Return the share of a GPU that a profile of this name is, for GPUs with seven compute slices."""
    slices = _SLICES.match(mig_profile)
    return min(1.0, int(slices[1]) / _COMPUTE_SLICES) if slices else 1.0


def share_held(mig_profile: str, gpu_share: float | None) -> float:
    """Return the known share of a GPU, otherwise what the profile's name tells."""
    return share_of(mig_profile) if gpu_share is None else gpu_share


def report(usages: Iterable[Usage], by: By) -> Sequence[Line]:
    """Return a line for each user, group, profile or day, in their order."""
    lines: dict[tuple[str, str], Line] = {}
    for usage in usages:
        empty = _empty(usage, by)
        key = (str(empty.day or empty.profile or empty.user or ""), empty.group or "")
        before = lines.get(key, empty)
        lines[key] = replace(
            before,
            sessions=before.sessions + usage.sessions,
            lease_seconds=before.lease_seconds + usage.lease_seconds,
            gpu_seconds=before.gpu_seconds + usage.gpu_seconds,
            idle_seconds=before.idle_seconds + usage.idle_seconds,
        )
    return [lines[key] for key in sorted(lines)]


def _empty(usage: Usage, by: By) -> Line:
    return Line(
        user=usage.user_id if by is By.USER else None,
        group=usage.group if by in (By.USER, By.GROUP) else None,
        profile=usage.mig_profile if by is By.PROFILE else None,
        day=usage.day if by is By.DAY else None,
        sessions=0,
        lease_seconds=0,
        gpu_seconds=0.0,
        idle_seconds=0,
    )


def _midnight(day: date, zone: tzinfo | None) -> datetime:
    """Return when the day begins. If clocks skip midnight, the day begins at that moment."""
    return datetime.combine(day, time(), zone).astimezone(UTC)
