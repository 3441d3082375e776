"""The steps that are due in a session before its lease ends. Pure.

Each step is recorded with the length of the lease at that time, so an extension makes the step due again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from gateway.domain.clock import Moment
from gateway.domain.models import Session
from gateway.domain.states import Status

_HOOK_BEFORE = timedelta(minutes=5)


class Step(StrEnum):
    WARN = "warn"  # write to every terminal of the session
    HOOK = "hook"  # run the user's own ~/.config/gateway/before-end
    SIGNAL = "signal"  # send SIGTERM to the user's programs


@dataclass(frozen=True, slots=True)
class Due:
    """A step whose time has come. `minutes` is the level of a warning, 0 for the other steps."""

    step: Step
    minutes: int = 0


def record(session: Session, due: Due) -> None:
    """Record in the row that the step is done."""
    match due.step:
        case Step.WARN:
            session.warned_for, session.warned_level = session.lease_seconds, due.minutes
        case Step.HOOK:
            session.hook_for = session.lease_seconds
        case Step.SIGNAL:
            session.signalled_for = session.lease_seconds


@dataclass(frozen=True, slots=True)
class WarningPlan:
    """`levels` are minutes before the end. Programs get SIGTERM `signal_before` the end; never if zero."""

    levels: Sequence[int]
    signal_before: timedelta

    @property
    def steps(self) -> Sequence[tuple[Step, timedelta]]:
        """Every step, and how long before the end of a lease it is due."""
        warnings = [(Step.WARN, timedelta(minutes=level)) for level in self.levels]
        last = [(Step.HOOK, _HOOK_BEFORE), (Step.SIGNAL, self.signal_before)]
        return [(step, before) for step, before in (*warnings, *last) if before]

    def due(self, session: Session, now: Moment) -> Sequence[Due]:
        """Return the steps that are due now and not recorded yet, in their order.

        Of several warnings only the one closest to the end is due, so that a user never gets two warnings at
        once.
        """
        remaining = session.time_left(now)
        if session.status != Status.ACTIVE or remaining <= timedelta():
            return []
        steps = [Due(Step.WARN, level) for level in self._levels(session, remaining)]
        if _is_reached(_HOOK_BEFORE, session, remaining) and session.hook_for != session.lease_seconds:
            steps.append(Due(Step.HOOK))
        is_signal_time = _is_reached(self.signal_before, session, remaining)
        if is_signal_time and session.signalled_for != session.lease_seconds:
            steps.append(Due(Step.SIGNAL))
        return steps

    def _levels(self, session: Session, remaining: timedelta) -> Sequence[int]:
        """The level of the warning that is due, or nothing."""
        reached = [
            level for level in self.levels if _is_reached(timedelta(minutes=level), session, remaining)
        ]
        level = min(reached, default=None)
        if level is None or _was_warned(session, level):
            return []
        return [level]


def _is_reached(before: timedelta, session: Session, remaining: timedelta) -> bool:
    """Whether at most `before` remains of the lease. A step in the first half of a lease is left out."""
    return bool(before) and remaining <= before <= session.lease / 2


def _was_warned(session: Session, level: int) -> bool:
    """Whether the user was warned of the lease's present end, at this level or one closer to the end."""
    return session.is_warned and session.warned_level is not None and session.warned_level <= level
