"""What must happen in a session before its lease ends, and when. Pure.

Each step is recorded with the length of the lease that it was about, so an extension makes it due again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from gateway.domain.clock import Moment
from gateway.domain.models import Session, Status

_HOOK_BEFORE = timedelta(minutes=5)


class Step(StrEnum):
    WARN = "warn"  # every terminal of the session
    HOOK = "hook"  # run the user's own ~/.config/gateway/before-end
    SIGNAL = "signal"  # SIGTERM to the user's programs


@dataclass(frozen=True, slots=True)
class Due:
    """A step whose time has come. `minutes` is the level of a warning, 0 for the other steps."""

    step: Step
    minutes: int = 0


def record(session: Session, due: Due) -> None:
    """Note in the row that the step is done."""
    match due.step:
        case Step.WARN:
            session.warned_for, session.warned_level = session.lease_seconds, due.minutes
        case Step.HOOK:
            session.hook_for = session.lease_seconds
        case Step.SIGNAL:
            session.signalled_for = session.lease_seconds


@dataclass(frozen=True, slots=True)
class WarningPlan:
    """`levels` are minutes before the end. `signal_before` is when programs get SIGTERM; zero: never."""

    levels: Sequence[int]
    signal_before: timedelta

    @property
    def horizon(self) -> timedelta:
        """Before the end by more than this, nothing is due."""
        return max([_HOOK_BEFORE, self.signal_before, *(timedelta(minutes=level) for level in self.levels)])

    def due(self, session: Session, now: Moment) -> Sequence[Due]:
        """Return the steps that are due now and not recorded yet, in their order.

        Of the warnings only the one closest to the end is due: a lease of four minutes is not warned three
        times at once.
        """
        left = session.time_left(now)
        if session.status != Status.ACTIVE or left <= timedelta():
            return []
        found = [Due(Step.WARN, level) for level in self._levels(session, left)]
        if _is_reached(_HOOK_BEFORE, session, left) and session.hook_for != session.lease_seconds:
            found.append(Due(Step.HOOK))
        if _is_reached(self.signal_before, session, left) and session.signalled_for != session.lease_seconds:
            found.append(Due(Step.SIGNAL))
        return found

    def _levels(self, session: Session, left: timedelta) -> Sequence[int]:
        """The level that is due, if one is."""
        reached = [level for level in self.levels if _is_reached(timedelta(minutes=level), session, left)]
        level = min(reached, default=None)
        if level is None or _was_warned(session, level):
            return []
        return [level]


def _is_reached(before: timedelta, session: Session, left: timedelta) -> bool:
    """Whether less than `before` is left. What would be more than half of the lease never is."""
    return bool(before) and left <= before <= session.lease / 2


def _was_warned(session: Session, level: int) -> bool:
    """Of the end of this lease, at this level or one closer to it."""
    return session.is_warned and session.warned_level is not None and session.warned_level <= level
