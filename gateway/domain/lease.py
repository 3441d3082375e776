"""The maximum length of a lease, and how much an extension adds. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from gateway.domain.clock import Moment
from gateway.domain.durations import in_words
from gateway.domain.leased import SessionColumns
from gateway.domain.states import Reason, Status
from gateway.errors import LeaseMoved, LeaseTooLong, SessionEnded, WaitedFor

MINUTE = timedelta(minutes=1)
_LONGEST = timedelta(days=3650)  # the limit for an override


@dataclass(frozen=True, slots=True)
class Extension:
    """A request to extend a lease.

    If `by` is None, the extension is as long as the limit allows. `ends` is the end of the lease that the
    caller expects, None for any: with it, a request that is sent twice extends the lease once.
    `is_override` allows an extension beyond the limit.
    """

    by: timedelta | None
    ends: datetime | None = None
    is_override: bool = False


@dataclass(frozen=True, slots=True)
class LeaseLimit:
    """`longest` is the maximum length of a whole lease, extensions included."""

    longest: timedelta

    def latest_end(self, session: SessionColumns) -> datetime | None:
        """Return the latest end that an extension can give the session; None if it cannot be extended."""
        headroom = min(self._headroom(session), _room(session))
        return session.expires_at + headroom if headroom and session.status != Status.CLOSING else None

    def grant(self, session: SessionColumns, extension: Extension, now: Moment) -> timedelta:
        """Return how much the extension adds to the lease, in whole minutes.

        Raises `SessionEnded` if the lease is over, `LeaseMoved` if the end is not the one that the caller
        expects, `WaitedFor` if it would reach into a promise to the waiting line or a maintenance, and
        `LeaseTooLong` if the lease would become longer than the limit.
        """
        if session.status == Status.CLOSING or session.time_left(now) <= timedelta():
            raise SessionEnded(session.id, session.end_reason or Reason.EXPIRED, now.wall)
        if extension.ends not in (None, session.expires_at):
            raise LeaseMoved(session.expires_at)
        headroom, room = self._headroom(session), _room(session)
        by = min(headroom, room) if extension.by is None else extension.by
        if session.latest_end and (by > room or not room):
            raise WaitedFor(self.latest_end(session), session.latest_end, None)
        if not by or by > (_LONGEST - session.lease if extension.is_override else headroom):
            raise self._refusal(session)
        return by

    def _headroom(self, session: SessionColumns) -> timedelta:
        """How much the lease can still grow, in whole minutes."""
        return max(timedelta(), (self._longest(session) - session.lease) // MINUTE * MINUTE)

    def _longest(self, session: SessionColumns) -> timedelta:
        """The user's policy can be shorter than the limit of all leases, never longer."""
        own = session.max_lease_minutes
        return self.longest if own is None else min(self.longest, timedelta(minutes=own))

    def _refusal(self, session: SessionColumns) -> LeaseTooLong:
        latest_end = self.latest_end(session)
        if latest_end:
            advice = f"this one can end at {latest_end:%Y-%m-%d %H:%M:%S} UTC at the latest"
        else:
            advice = "this one cannot be extended any more. The workspace is kept for the next session"
        message = f"A lease lasts at most {in_words(self._longest(session))}, extensions included: {advice}."
        return LeaseTooLong(message, latest_end, self._longest(session) // MINUTE)


def _room(session: SessionColumns) -> timedelta:
    """How much the promises to the waiting line let the lease grow, in whole minutes."""
    if session.latest_end is None:
        return _LONGEST
    return max(timedelta(), (session.latest_end - session.expires_at) // MINUTE * MINUTE)
