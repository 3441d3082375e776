"""The state of sessions on a cluster, as their pods show it. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.domain.leased import SessionColumns
from gateway.domain.observation import Finding, Observation, Place, SessionState, State
from gateway.domain.states import Reason
from gateway.repositories.kubernetes.facts import PodFacts

_MARKED = "the session stays open; it is only marked"


@dataclass(frozen=True, slots=True)
class ClusterView:
    """`pods` are those of this database, by session id; None if Kubernetes did not answer. `held` are the ids
    of all sessions with objects, `claimed` those that a process opens or removes now."""

    pods: Mapping[str, PodFacts] | None
    held: Collection[str] = ()
    claimed: Collection[str] = ()
    unseen: Mapping[Place, str] = field(default_factory=dict)

    def observe(self, sessions: Sequence[SessionColumns]) -> Observation:
        ids = {session.id for session in sessions} | set(self.held)
        return Observation(
            states={session.id: self._state(session) for session in sessions},
            held={id: [Place.KUBERNETES] for id in self.held},
            claimed={id: id in self.claimed for id in ids},
            pods=frozenset(self.pods or ()),
            unseen=self.unseen,
        )

    def _state(self, session: SessionColumns) -> SessionState:
        if self.pods is None:
            return SessionState(State.UNKNOWN, problem=session.problem)
        pod = self.pods.get(session.id)
        if pod is None:
            return SessionState(State.GONE, Reason.FAILED, findings=_found("no pod"))
        if pod.ended:
            return SessionState(State.ENDED, pod.ended, findings=_found(f"its pod has ended: {pod.ended}"))
        findings = _found(pod.problem, _MARKED) if pod.problem else ()
        return SessionState(State.RUNNING, problem=pod.problem, findings=findings)


def _found(what: str, then: str = "") -> Sequence[Finding]:
    return [Finding(Place.KUBERNETES, what, then)]
