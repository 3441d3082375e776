"""The differences between the places where sessions exist, and what the reaper will do about each. Pure.

The reaper's own `reconcile.plan` decides which sessions are closed.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from gateway.domain import reconcile
from gateway.domain.clock import Moment
from gateway.domain.leased import OPENING_GRACE
from gateway.domain.mig import Gpu, Instance, MigPolicy
from gateway.domain.models import Session
from gateway.domain.observation import Finding, Observation, Place
from gateway.domain.pipe import Pipe
from gateway.domain.plan import Allocation
from gateway.domain.reconcile import Plan
from gateway.domain.states import Reason, Status

NEXT_TICK = "at the next tick"
NOT_OURS = "kept: the gateway did not create it"


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` is wrong at `place`; `then` is what the reaper will do about it."""

    place: Place
    what: str
    then: str
    session_id: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The content of all places. The sessions' rows were read first.

    `pipes` is None if the pipe file could not be read. `handwritten` are the users whom a hand-written pipe
    routes elsewhere. `known` is as in `reconcile.plan`. `routes` is the place of the pipes.
    """

    sessions: Sequence[Session]
    host: Observation
    pipes: Sequence[Pipe] | None
    handwritten: Collection[str]
    known: Collection[str] = ()
    routes: Place = Place.PIPES


def differences(snapshot: Snapshot, now: Moment) -> Iterator[Difference]:
    """Return one difference for each object at each place.

    First those of sessions, then those without one.
    """
    plan = reconcile.plan(snapshot.sessions, snapshot.host, now, snapshot.known)
    for session in snapshot.sessions:
        reason = plan.close.get(session.id)
        if session.status == Status.ACTIVE:
            yield from _Active(session, snapshot, now, reason).differences()
        else:
            yield from _unfinished(session, snapshot, reason)
    yield from _without_session(snapshot, plan)


def foreign_instances(
    gpus: Sequence[Gpu], allocations: Iterable[Allocation | None], policy: MigPolicy
) -> Iterator[Difference]:
    """Return the GPU instances that belong to no session. `allocations` are those of all rows and containers.

    With a policy other than `dynamic`, idle instances are expected and left out.
    """
    held = {(found.gpu, found.placement) for found in allocations if found}
    for gpu in gpus:
        for instance in gpu.instances:
            is_offered = policy is not MigPolicy.DYNAMIC and instance.mig_uuid is not None
            if (gpu.uuid, instance.placement) not in held and not is_offered:
                yield Difference(
                    Place.DRIVER, f"{_describe(gpu, instance)} that belongs to no session", NOT_OURS
                )


class _Active:
    """The differences of one active session, place by place."""

    def __init__(self, session: Session, snapshot: Snapshot, now: Moment, reason: Reason | None) -> None:
        self._session = session
        self._snapshot = snapshot
        self._state = snapshot.host.states[session.id]
        self._reason = Reason.EXPIRED if session.time_left(now) <= timedelta() else reason

    def differences(self) -> Iterator[Difference]:
        findings = sorted(
            [*self._row(), *self._state.findings, *self._mark(), *self._route()],
            key=lambda finding: list(Place).index(finding.place),
        )
        for found in findings:
            then = self._closing or found.then
            yield Difference(found.place, found.what, then, self._session.id, self._session.user_id)

    @property
    def _closing(self) -> str | None:
        """What the reaper will do about every difference of a session that it will close."""
        return f"the session is closed ({self._reason}) {NEXT_TICK}" if self._reason else None

    def _row(self) -> Iterator[Finding]:
        if self._reason is Reason.EXPIRED:
            yield Finding(Place.DATABASE, f"the lease ended {self._session.expires_at:%Y-%m-%d %H:%M:%S} UTC")
        if self._session.disconnect_due:
            what = "connections of a revoked key are still open"
            yield Finding(Place.DATABASE, what, f"closed {NEXT_TICK}")

    def _mark(self) -> Iterator[Finding]:
        if self._session.problem and not self._state.problem:
            what = f"the session has recovered but is still marked: {self._session.problem}"
            yield Finding(Place.DATABASE, what, f"the mark is removed {NEXT_TICK}")

    def _route(self) -> Iterator[Finding]:
        session, place = self._session, self._snapshot.routes
        if self._snapshot.pipes is None:
            return
        found = next((pipe for pipe in self._snapshot.pipes if pipe.session_id == session.id), None)
        if session.pipe and not found:
            yield Finding(place, "no route", f"published {NEXT_TICK}")
        elif session.pipe and found != session.pipe:
            yield Finding(place, "the route differs from the record", f"published again {NEXT_TICK}")
        elif found and not session.pipe:
            yield Finding(place, "a route although no key is accepted", f"removed {NEXT_TICK}")
        if session.user_id in self._snapshot.handwritten:
            yield Finding(place, "a hand-written pipe routes this user elsewhere", NOT_OURS)


def _unfinished(session: Session, snapshot: Snapshot, reason: Reason | None) -> Iterator[Difference]:
    """The difference of a session that is pending or closing."""
    named = (session.id, session.user_id)
    if reason is None:
        if not snapshot.host.claimed.get(session.id):  # otherwise a process works on it now
            until = session.created_at + OPENING_GRACE
            what = f"{session.status}; it is unknown whether the process that opens it is alive"
            yield Difference(Place.DATABASE, what, f"kept until {until:%H:%M:%S} UTC", *named)
    elif session.status == Status.PENDING:
        what = "pending, and the process that opened it is dead"
        yield Difference(Place.DATABASE, what, f"the session is closed {NEXT_TICK}", *named)
    else:
        problem = f": {session.problem}" if session.problem else ""
        what, then = f"closing ({reason}){problem}", f"the closing is completed {NEXT_TICK}"
        yield Difference(Place.DATABASE, what, then, *named)


def _without_session(snapshot: Snapshot, plan: Plan) -> Iterator[Difference]:
    removed, kept = f"removed {NEXT_TICK}", "kept: stop the gateway and run `gateway recover`"
    known = {session.id for session in snapshot.sessions}
    for id in sorted({*plan.orphans, *plan.unknown}):
        for place in snapshot.host.held[id]:
            then = kept if id in plan.unknown else removed
            yield Difference(place, f"{_OBJECTS[place]} without a session", then, id)
    for pipe in snapshot.pipes or ():
        if pipe.session_id not in known:
            then = kept if pipe.session_id in plan.unknown else removed
            what = "a route without a session"
            yield Difference(snapshot.routes, what, then, pipe.session_id, pipe.username)


_OBJECTS = {
    Place.DOCKER: "a container",
    Place.FILES: "files",
    Place.PODS: "a pod",
    Place.CLAIMS: "a claim",
    Place.SECRETS: "a Secret",
}


def _describe(gpu: Gpu, instance: Instance) -> str:
    first, last = instance.placement.start, instance.placement.start + instance.placement.size - 1
    return f"a {instance.profile} at memory slices {first}-{last} of GPU {gpu.index}"
