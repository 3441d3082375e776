"""Decides what the reconciler must do so that the host agrees with the database again. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gateway.domain.clock import Moment
from gateway.domain.leased import SessionColumns
from gateway.domain.observation import Observation, State
from gateway.domain.states import Reason, Status


@dataclass(frozen=True, slots=True)
class Plan:
    """`close`: the sessions to close, and why. `problems`: the changed problems of sessions that stay open;
    None if the problem is over. `orphans`: the ids of leftovers on the host that have no row. `repairs`: the
    sessions that stay open and of which the host can restore a part."""

    close: Mapping[str, Reason]
    problems: Mapping[str, str | None]
    orphans: Sequence[str]
    repairs: Sequence[str] = ()


def plan(sessions: Sequence[SessionColumns], seen: Observation, now: Moment) -> Plan:
    """Return the plan. `sessions` must have been read before the host was observed."""
    verdicts = {session.id: _verdict(session, seen, now) for session in sessions}
    opening = {id for id, claimed in seen.claimed.items() if claimed}
    return Plan(
        close={id: reason for id, reason in verdicts.items() if reason},
        problems={
            session.id: problem
            for session in sessions
            if verdicts[session.id] is None
            and (problem := seen.states[session.id].problem) != session.problem
        },
        orphans=sorted(seen.held.keys() - verdicts.keys() - opening),
        repairs=[id for id, reason in verdicts.items() if reason is None and seen.states[id].is_repairable],
    )


def _verdict(session: SessionColumns, seen: Observation, now: Moment) -> Reason | None:
    """Why the session must be closed; None if it stays open."""
    observed = seen.states[session.id]
    if session.is_being_opened(now, seen.claimed.get(session.id)):
        return None
    if session.status == Status.CLOSING:
        return Reason(str(session.end_reason))
    if session.status == Status.PENDING:
        return Reason.FAILED
    if observed.state in (State.ENDED, State.GONE):
        return observed.reason or Reason.FAILED
    return None
