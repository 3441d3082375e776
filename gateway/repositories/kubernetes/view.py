"""The state of sessions on a cluster, as their pods show it. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.domain.leased import SessionColumns
from gateway.domain.observation import (
    MARKED,
    NOT_REPAIRED,
    Finding,
    Observation,
    Place,
    SessionState,
    State,
)
from gateway.domain.states import Reason
from gateway.repositories.kubernetes.facts import Inventory
from gateway.repositories.kubernetes.pod_facts import PodFacts

_LOST = "The nvidia-smi of the session says that its GPU is lost."


@dataclass(frozen=True, slots=True)
class ClusterView:
    """`pods` are those of this database, by session id; None if Kubernetes did not answer. `claims` and
    `secrets` are the ids of the sessions with such objects, `claimed` those that a process opens or removes
    now. `inventory` is None if the published GPUs are not known. `lost` says of the sessions that were asked
    lately whether their GPU is lost."""

    pods: Mapping[str, PodFacts] | None
    claims: Collection[str] = ()
    secrets: Collection[str] = ()
    claimed: Collection[str] = ()
    inventory: Inventory | None = None
    lost: Mapping[str, bool] = field(default_factory=dict)

    @property
    def ids(self) -> set[str]:
        """Of all sessions with objects."""
        return {*(self.pods or ()), *self.claims, *self.secrets}

    def observe(self, sessions: Sequence[SessionColumns]) -> Observation:
        ids = self.ids | {session.id for session in sessions}
        published = frozenset(gpu.uuid for gpu in self.inventory.gpus) if self.inventory else frozenset()
        return Observation(
            states={session.id: self._state(session, published) for session in sessions},
            held=self._held(),
            claimed={id: id in self.claimed for id in ids},
            pods=frozenset(self.pods or ()),
        )

    def _held(self) -> Mapping[str, Sequence[Place]]:
        held: dict[str, list[Place]] = {}
        kinds = {Place.PODS: self.pods or (), Place.CLAIMS: self.claims, Place.SECRETS: self.secrets}
        for place, ids in kinds.items():
            for id in ids:
                held.setdefault(id, []).append(place)
        return held

    def _state(self, session: SessionColumns, published: Collection[str]) -> SessionState:
        if self.pods is None:
            return SessionState(State.UNKNOWN, problem=session.problem)
        pod = self.pods.get(session.id)
        if pod is None:
            return SessionState(State.GONE, Reason.FAILED, findings=[Finding(Place.PODS, "no pod")])
        if pod.ended:
            what = f"its pod has ended: {pod.ended}"
            return SessionState(State.ENDED, pod.ended, findings=[Finding(Place.PODS, what)])
        found = (pod.problem, self._gpu_problem(session, published), self._loss(session))
        problems = [problem for problem in found if problem]
        is_unknown = self.inventory is None and session.problem
        return SessionState(
            State.RUNNING,
            problem=" ".join(problems) or (session.problem if is_unknown else None),
            findings=[
                *(Finding(Place.PODS, problem, MARKED) for problem in problems),
                *self._missing(session),
            ],
        )

    def _loss(self, session: SessionColumns) -> str | None:
        """Without a new answer the last one holds, which another process may have got."""
        was_lost = _LOST in (session.problem or "")
        return _LOST if self.lost.get(session.id, was_lost) else None

    def _missing(self, session: SessionColumns) -> Iterator[Finding]:
        if session.id not in self.claims:
            yield Finding(Place.CLAIMS, "none; its slice may become somebody else's", NOT_REPAIRED)
        if session.id not in self.secrets:
            yield Finding(Place.SECRETS, "none; its files do not change any more", NOT_REPAIRED)

    def _gpu_problem(self, session: SessionColumns, published: Collection[str]) -> str | None:
        """A GPU that is out of order ends no session. The gateway's own cordons are no faults."""
        if session.gpu is None or self.inventory is None or not published:
            return None
        if session.gpu not in published:
            return f"The driver of its node does not publish GPU {session.gpu} now."
        fault = self.inventory.faults.get(session.gpu)
        return f"Its GPU is out of order: {fault}." if fault else None
