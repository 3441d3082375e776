"""Decides what the reconciler must do so that the host agrees with the database again. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gateway.domain.clock import Moment
from gateway.domain.leased import SessionColumns
from gateway.domain.observation import Observation, State
from gateway.domain.states import Reason, Status


@dataclass(frozen=True, slots=True)
class Plan:
    """`close`: the sessions to close, and why. `problems`: the changed problems of sessions that stay open;
    None if the problem is over. `orphans`: the ids of leftovers on the host that have no row. `repairs`: the
    sessions that stay open and of which the host can restore a part. `unknown`: the ids of the sessions that
    run without a row, if they are so many that the database must be an older one: then nothing is an orphan.
    """

    close: Mapping[str, Reason]
    problems: Mapping[str, str | None]
    orphans: Sequence[str]
    repairs: Sequence[str] = ()
    unknown: Sequence[str] = ()


# Pods lose their row only if somebody puts an older database back. A part of them is a mistake, too.
_MOST_UNKNOWN = 0.1


def plan(
    sessions: Sequence[SessionColumns], seen: Observation, now: Moment, known: Collection[str] = ()
) -> Plan:
    """Return the plan. `sessions` must have been read before the host was observed, and `known` after it: the
    ids of the pods without one of these sessions that have a row by now, or are in the history."""
    verdicts = {session.id: _verdict(session, seen, now) for session in sessions}
    opening = {id for id, claimed in seen.claimed.items() if claimed}
    orphans = sorted(seen.held.keys() - verdicts.keys() - opening)
    unknown = [id for id in orphans if id in seen.pods and id not in known]
    is_older = len(unknown) > _MOST_UNKNOWN * len(seen.pods)
    return Plan(
        close={id: reason for id, reason in verdicts.items() if reason},
        problems={
            session.id: problem
            for session in sessions
            if verdicts[session.id] is None
            and (problem := seen.states[session.id].problem) != session.problem
        },
        orphans=[] if is_older else orphans,
        repairs=[id for id, reason in verdicts.items() if reason is None and seen.states[id].is_repairable],
        unknown=unknown if is_older else [],
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
