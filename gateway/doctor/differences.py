"""Where the places in which a session exists differ, and what the reaper will make of it. Pure.

What becomes of a session is decided by the reaper's own `reconcile.plan`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gateway.domain import plan, reconcile
from gateway.domain.clock import Moment
from gateway.domain.mig import Gpu, Instance, MigPolicy
from gateway.domain.models import OPENING_GRACE, Reason, Session, Status
from gateway.domain.pipe import Pipe
from gateway.domain.plan import Container

NEXT_TICK = "at the next tick"
NOT_OURS = "left alone: not the gateway's"


class Place(StrEnum):
    DATABASE = "database"
    DOCKER = "Docker"
    DRIVER = "GPU driver"
    PIPES = "pipe file"
    FILES = "session files"


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` is not as it must be at `place`, and `then` what becomes of it."""

    place: Place
    what: str
    then: str
    session_id: str | None = None
    user_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What each place showed, the sessions' rows first. None: that place could not be looked at.

    `files` are ids of sessions that have files, and whether somebody is opening them; `handwritten` the
    users whom a pipe written by hand routes elsewhere; `up_since` as `reconcile.Seen` has it.
    """

    sessions: Sequence[Session]
    containers: Sequence[Container] | None
    gpus: Sequence[Gpu] | None
    pipes: Sequence[Pipe] | None
    handwritten: Collection[str]
    files: Mapping[str, bool] | None
    up_since: datetime | None


def differences(snapshot: Snapshot, now: Moment) -> Iterator[Difference]:
    """One for each thing at one place, session by session, then what belongs to none."""
    seen = reconcile.Seen(snapshot.containers, snapshot.files or {}, snapshot.gpus or (), snapshot.up_since)
    plan = reconcile.plan(snapshot.sessions, seen, now)
    for session in snapshot.sessions:
        reason = plan.close.get(session.id)
        if session.status == Status.ACTIVE:
            yield from _Active(session, snapshot, now, reason, plan.problems).differences()
        else:
            yield from _unfinished(session, snapshot, reason)
    yield from _of_no_session(snapshot, plan.orphans)


def strange_slices(
    gpus: Sequence[Gpu], sessions: Sequence[Session], policy: MigPolicy
) -> Iterator[Difference]:
    """GPU instances that no session has. They are planned around; where the administrator makes them, idle
    ones are meant to be there."""
    held = {(session.gpu, session.placement) for session in sessions}
    for gpu in gpus:
        for instance in gpu.instances:
            is_offered = policy is not MigPolicy.DYNAMIC and instance.mig_uuid is not None
            if (gpu.uuid, instance.placement) not in held and not is_offered:
                yield Difference(Place.DRIVER, f"{_slice(gpu, instance)} that no session has", NOT_OURS)


class _Active:
    """The differences of one active session, place by place."""

    def __init__(
        self,
        session: Session,
        snapshot: Snapshot,
        now: Moment,
        reason: Reason | None,
        problems: Mapping[str, str | None],
    ) -> None:
        self._session = session
        self._snapshot = snapshot
        self._reason = Reason.EXPIRED if session.time_left(now) <= timedelta() else reason
        self._problems = problems

    def differences(self) -> Iterator[Difference]:
        looks: Sequence[tuple[Place, Callable[[], Iterator[tuple[str, str]]]]] = (
            (Place.DATABASE, self._row),
            (Place.DOCKER, self._container),
            (Place.DRIVER, self._slice),
            (Place.PIPES, self._route),
            (Place.FILES, self._files),
        )
        for place, look in looks:
            for what, then in look():
                yield Difference(place, what, self._end or then, self._session.id, self._session.user_id)

    @property
    def _end(self) -> str | None:
        """What becomes of all of it when the session is to be closed."""
        return f"the session is closed ({self._reason}) {NEXT_TICK}" if self._reason else None

    def _row(self) -> Iterator[tuple[str, str]]:
        if self._reason is Reason.EXPIRED:
            yield f"its lease ended {self._session.expires_at:%Y-%m-%d %H:%M:%S} UTC", ""
        if self._session.disconnect_due:
            yield "connections of a withdrawn key are not cut yet", f"cut {NEXT_TICK}"

    def _container(self) -> Iterator[tuple[str, str]]:
        if self._snapshot.containers is None:
            return
        found = [one for one in self._snapshot.containers if one.session_id == self._session.id]
        if not found:
            yield "no container", ""
        elif found[0].ended:
            yield "its container has ended", ""

    def _slice(self) -> Iterator[tuple[str, str]]:
        session = self._session
        for gpu in self._snapshot.gpus or ():
            if gpu.uuid == session.gpu and reconcile.has_lost_slice(gpu, session):
                yield (
                    f"its {session.mig_profile} on GPU {gpu.index} is gone",
                    "it is closed once Docker answers",
                )
        problem = self._problems.get(session.id, session.problem)
        if problem:
            yield problem, "nothing is closed on its account; the session is marked"
        elif session.problem:
            yield f"it is well again but marked: {session.problem}", f"the mark is taken away {NEXT_TICK}"

    def _route(self) -> Iterator[tuple[str, str]]:
        session = self._session
        if self._snapshot.pipes is None:
            return
        found = next((pipe for pipe in self._snapshot.pipes if pipe.session_id == session.id), None)
        if session.public_keys and not found:
            yield "no route", f"published {NEXT_TICK}"
        elif session.public_keys and found != plan.pipe(session):
            yield "its route is not as its record says", f"published anew {NEXT_TICK}"
        elif found and not session.public_keys:
            yield "a route, where no key is let in", f"removed {NEXT_TICK}"
        if session.user_id in self._snapshot.handwritten:
            yield "a pipe written by hand routes this user elsewhere", NOT_OURS

    def _files(self) -> Iterator[tuple[str, str]]:
        if self._snapshot.files is not None and self._session.id not in self._snapshot.files:
            yield "none, its sshd needs them", "not put right: delete the session"


def _unfinished(session: Session, snapshot: Snapshot, reason: Reason | None) -> Iterator[Difference]:
    """One that is pending or closing; what it still has goes with it."""
    named = (session.id, session.user_id)
    if reason is None:
        if not (snapshot.files or {}).get(session.id):  # else somebody is at it
            until = session.created_at + OPENING_GRACE
            what = f"{session.status}; whether its opener lives is not known"
            yield Difference(Place.DATABASE, what, f"left to it until {until:%H:%M:%S} UTC", *named)
    elif session.status == Status.PENDING:
        yield Difference(Place.DATABASE, "pending, and its opener is dead", f"taken back {NEXT_TICK}", *named)
    else:
        why = f": {session.problem}" if session.problem else ""
        yield Difference(
            Place.DATABASE, f"closing ({reason}){why}", f"its closing is finished {NEXT_TICK}", *named
        )


def _of_no_session(snapshot: Snapshot, orphans: Sequence[str]) -> Iterator[Difference]:
    removed = f"removed {NEXT_TICK}"
    containers = {container.session_id for container in snapshot.containers or ()}
    known = {session.id for session in snapshot.sessions}
    for id in orphans:
        if id in containers:
            yield Difference(Place.DOCKER, "a container of no session", removed, id)
        if id in (snapshot.files or {}):
            yield Difference(Place.FILES, "files of no session", removed, id)
    for pipe in snapshot.pipes or ():
        if pipe.session_id not in known:
            yield Difference(Place.PIPES, "a route of no session", removed, pipe.session_id, pipe.username)


def _slice(gpu: Gpu, instance: Instance) -> str:
    first, last = instance.placement.start, instance.placement.start + instance.placement.size - 1
    return f"a {instance.profile} at memory slices {first}-{last} of GPU {gpu.index}"
