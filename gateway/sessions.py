"""What people and the reaper do with sessions: open, get, list, close, reap, reconcile.

Transactions are short and never span a call to Docker, the driver or a file. The intent is committed
before the act: whatever exists can be found from a row, and undoing a failed start is closing it.
"""

import ipaddress
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from gateway import intent, keys, reconcile
from gateway.admission import Admission
from gateway.audit import What
from gateway.errors import (
    DatabaseUnavailable,
    GatewayError,
    PlacementTaken,
    SessionEnded,
    SessionExists,
    SessionNotFound,
)
from gateway.failpoints import reach
from gateway.host import Host, SessionPlan, Started
from gateway.mig import Gpu, MigPolicy
from gateway.models import Event, KeysFrom, Reason, Session, Status
from gateway.occupancy import Occupancy
from gateway.ports import Database, Pipes, Rows
from gateway.reconcile import Seen

log = logging.getLogger("gateway.sessions")

T = TypeVar("T")

# Another program that shares the driver may be faster, so often that it is no coincidence.
_CHOICES = 3


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that is ready for its user. `private_key` is there once, when the gateway made the pair."""

    session: Session
    private_key: str | None


class Sessions:
    """The use cases. `subnet` is where the sessions' addresses come from, `clock` gives aware UTC times."""

    def __init__(
        self,
        database: Database,
        host: Host,
        pipes: Pipes,
        *,
        subnet: ipaddress.IPv4Network,
        mig_policy: MigPolicy,
        history: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._host = host
        self._pipes = pipes
        self._admission = Admission(database, host, pipes)
        self._subnet = subnet
        self._policy = mig_policy
        self._history = history
        self._clock = clock

    def open(
        self,
        user_id: str,
        ttl: timedelta,
        mig_profile: str | None = None,
        public_keys: Sequence[str] | None = None,
    ) -> Opened:
        """A session that its user can reach when this returns; nothing is left behind when it raises.

        Raises `SessionExists`, `NoCapacity`, `InvalidRequest`, `Unavailable`, `DiskFull`.
        """
        given_keys = keys.parse_public_keys(public_keys) if public_keys else None
        for _ in range(_CHOICES - 1):
            with suppress(PlacementTaken):
                return self._open(user_id, ttl, mig_profile, given_keys)
        return self._open(user_id, ttl, mig_profile, given_keys)

    def get(self, session_id: str, owner: str | None = None) -> Session:
        """Raises `SessionNotFound` for an id that never was, `SessionEnded` for one that is over.

        With `owner`, other users' sessions are as if they never were.
        """
        with self._database.read() as rows:
            return live(rows, session_id, owner)

    def list(self, owner: str | None = None) -> Sequence[Session]:
        with self._database.read() as rows:
            return [session for session in rows.list() if owner in (None, session.user_id)]

    def close(self, session_id: str, reason: Reason = Reason.DELETED) -> bool:
        """Take back route, container, slice and record, in this order; True when all four are gone.

        False leaves the session `closing`: for the reaper to try again, or for whoever is still opening it
        to find. Raises as `get` does.
        """
        with self._database.begin() as rows:
            session = live(rows, session_id)
            self._begin_closing(rows, session, reason)
        reach("after-closing-commit", DatabaseUnavailable)
        claimed = self._host.is_claimed(session_id)
        return False if session.is_being_opened(self._clock(), claimed) else self._finish(session)

    def next_expiry(self) -> datetime | None:
        with self._database.read() as rows:
            return rows.next_expiry()

    def expired(self) -> Sequence[Session]:
        with self._database.read() as rows:
            return rows.expired(self._clock())

    def reap(self, session: Session) -> None:
        """Take back one that has expired; a failure leaves it `closing`, and one that is gone is fine."""
        with suppress(SessionNotFound, SessionEnded):
            self.close(session.id, Reason.EXPIRED)

    def reconcile(self) -> None:
        """Make the parts agree with the rows again: closing sessions, containers, files, routes, history.

        Rows are read before containers and GPUs, so what an active row lacks is really missing; a
        container without a row is looked up again, since a row always stands before its container.
        A part that cannot be looked at keeps none of the others from being put right.
        """
        _attempt("the sessions' network is not looked at", self._host.secure)
        with self._database.begin() as rows:
            sessions = rows.list()
            rows.forget(self._clock() - self._history)
        plan = reconcile.plan(sessions, self._look(), self._clock())
        self._note(plan.problems)
        for session in sessions:
            if reason := plan.close.get(session.id):
                self._take_back(session, reason)
        for session_id in plan.orphans:
            _attempt("an orphan is left for the next time", partial(self._remove_orphan, session_id))
        _attempt("the routes are not looked at", self._admission.settle)

    def _open(
        self, user_id: str, ttl: timedelta, profile: str | None, public_keys: tuple[str, ...] | None
    ) -> Opened:
        session_id = str(uuid.uuid4())
        with self._host.claim(session_id):  # before its row is there: who sees the row can judge its opener
            try:
                session, plan, gpu, made_key = self._reserve(session_id, user_id, ttl, profile, public_keys)
            except BaseException:
                self._host.forget(session_id)
                raise
            try:
                reach("after-intent-commit", DatabaseUnavailable)
                started = self._host.start(plan, gpu)
                self._pipes.add(intent.pipe(session))
                reach("after-pipe-publish")
                session = self._activate(session, started)
                if session.cut_due:
                    self._admission.enforce(session_id)
                reach("after-activate", DatabaseUnavailable)
            except BaseException as error:
                self._undo(session, error)
                raise
        log.info("session opened", extra=_named(session))
        return Opened(session, made_key)

    def _reserve(
        self,
        session_id: str,
        user_id: str,
        ttl: timedelta,
        profile: str | None,
        public_keys: tuple[str, ...] | None,
    ) -> tuple[Session, SessionPlan, Gpu, str | None]:
        """Commit the intent: the row, with GPU, profile, placement and address, stands before the act."""
        gpus = self._host.list_gpus()
        router, sshd = keys.make_pair(), keys.make_pair()
        with self._database.begin() as rows:
            if existing := rows.of_user(user_id):
                raise SessionExists(user_id, existing.id)
            user = rows.user(user_id)
            now = self._clock().replace(microsecond=0)
            others = rows.list()
            occupancy = Occupancy(gpus, others, rows.cordons(), self._policy)
            profile = occupancy.offered(profile)
            gpu, lease = occupancy.place(profile, now + ttl, now, rows.demand())
            made = None if public_keys or user.public_keys else keys.make_pair()
            keys_from = KeysFrom.MADE if made else KeysFrom.GIVEN if public_keys else KeysFrom.STORED
            session = Session(
                id=session_id,
                user_id=user_id,
                status=Status.PENDING,
                mig_profile=profile,
                gpu=gpu.uuid,
                start=lease.placement.start,
                size=lease.placement.size,
                borrowed=lease.borrowed,
                address=intent.free_address(self._subnet, {other.address for other in others}),
                public_keys=[made.public] if made else list(public_keys or user.public_keys),
                keys_from=keys_from,
                private_key=router.private,
                host_key=sshd.public,
                created_at=now,
                expires_at=now + ttl,
            )
            rows.add(session)
            rows.tell(
                Event.of(
                    now,
                    What.CREATED,
                    f"{profile} until {session.expires_at:%Y-%m-%d %H:%M:%S} UTC",
                    session=session,
                )
            )
        plan = intent.plan(session, user.uid, lease, router, sshd)
        return session, plan, gpu, made.private if made else None

    def _activate(self, opened: Session, started: Started) -> Session:
        with self._database.begin() as rows:
            session = live(rows, opened.id)
            session.activate(started.container_id, started.gpu_uuid)
            if session.public_keys != opened.public_keys:  # those published meanwhile are out of date
                session.cut_due = True
            if session.status == Status.ACTIVE:
                told = f"container {started.container_id[:12]}, slice {started.gpu_uuid}"
                rows.tell(Event.of(self._clock(), What.OPENED, told, session=session))
        if session.status == Status.CLOSING:
            raise SessionEnded(session.id, str(session.end_reason), self._clock())
        return session

    def _undo(self, opened: Session, error: BaseException) -> None:
        """Undoing is closing. A placement that was somebody else's already must not be destroyed."""
        log.warning("session failed to open", extra={**_named(opened), "error": _why(error)})
        try:
            with self._database.begin() as rows:
                session = live(rows, opened.id)
                rows.tell(Event.of(self._clock(), What.FAILED, _why(error), session=session))
                session.close(Reason.FAILED)
                if isinstance(error, PlacementTaken):
                    session.forget_slice()
            self._finish(session)
        except GatewayError as failure:
            log.warning("undoing must be tried again", extra={**_named(opened), "error": str(failure)})

    def _finish(self, session: Session) -> bool:
        """The four steps of taking a closing session back; each finds "gone already" a success.

        The route goes first, so that nobody logs in to a dying session. Where it cannot be taken away,
        container and slice go all the same, and the row stays: its address is nobody else's until then.
        """
        try:
            with _failing_last(partial(self._remove_pipe, session.id)):
                self._host.stop(session.id, intent.lease(session))
            with self._database.begin() as rows:
                if row := rows.get(session.id):
                    rows.end(row, self._clock())
                    rows.tell(Event.of(self._clock(), What.ENDED, str(row.end_reason), session=row))
            reach("after-end", DatabaseUnavailable)
            self._host.forget(session.id)
        except GatewayError as failure:
            log.warning("closing must be tried again", extra={**_named(session), "error": str(failure)})
            with suppress(GatewayError):
                self._note({session.id: str(failure)})
            return False
        log.info("session ended", extra={**_named(session), "reason": session.end_reason})
        return True

    def _remove_pipe(self, session_id: str) -> None:
        self._pipes.remove(session_id)
        reach("after-pipe-remove")

    def _look(self) -> Seen:
        """What the machine shows. Where a part cannot be asked, what it holds is unknown, not gone."""
        return Seen(
            containers=_attempt("containers are not looked at", self._host.observe),
            remains=_attempt("left-over files are not looked at", self._host.remains) or {},
            gpus=_attempt("the slices of sessions are not looked at", self._host.list_gpus) or (),
        )

    def _note(self, problems: Mapping[str, str | None]) -> None:
        if not problems:
            return
        with self._database.begin() as rows:
            for session_id, problem in problems.items():
                session = rows.get(session_id)
                if session and session.problem != problem:
                    session.problem = problem
                    what = What.RECOVERED if problem is None else What.PROBLEM
                    what = What.RETRY if session.status == Status.CLOSING else what
                    rows.tell(Event.of(self._clock(), what, problem or "", session=session))

    def _begin_closing(self, rows: Rows, session: Session, reason: Reason) -> None:
        if session.status != Status.CLOSING:
            session.close(reason)
            rows.tell(Event.of(self._clock(), What.CLOSING, reason, session=session))

    def _take_back(self, seen: Session, reason: Reason) -> None:
        """Close what was judged as it was `seen`, unless its opener was done with it since."""
        with self._database.begin() as rows:
            session = rows.get(seen.id)
            if session is None or session.container_id != seen.container_id:
                return
            self._begin_closing(rows, session, reason)
        log.warning("session is closed", extra={**_named(seen), "reason": reason})
        self._finish(session)

    def _remove_orphan(self, session_id: str) -> None:
        with self._host.claim(session_id):
            with self._database.read() as rows:
                if rows.get(session_id):
                    return
            log.warning("removing what is left of a session", extra={"session_id": session_id})
            self._host.stop(session_id, None)
            with self._database.begin() as rows:
                rows.tell(Event.of(self._clock(), What.ORPHAN_REMOVED, session_id=session_id))
            self._host.forget(session_id)


def _attempt(otherwise: str, act: Callable[[], T]) -> T | None:
    """What `act` gives; None, and a line in the log, when its part is out of reach."""
    try:
        return act()
    except GatewayError as error:
        log.warning(otherwise, extra={"error": str(error)})
        return None


@contextmanager
def _failing_last(first: Callable[[], None]) -> Iterator[None]:
    """Does `first`, then the block whatever became of it; raises what failed first."""
    try:
        first()
    except GatewayError as failure:
        yield
        raise failure
    else:
        yield


def _named(session: Session) -> dict[str, str]:
    return {"session_id": session.id, "user_id": session.user_id}


def _why(error: BaseException) -> str:
    """A defect's own words are for the log."""
    return str(error) if isinstance(error, GatewayError) else f"a defect: {type(error).__name__}"


def live(rows: Rows, session_id: str, owner: str | None = None) -> Session:
    session = rows.get(session_id)
    if session and owner in (None, session.user_id):
        return session
    ended = rows.get_ended(session_id)
    if ended and owner in (None, ended.user_id):
        raise SessionEnded(session_id, ended.reason, ended.ended_at)
    raise SessionNotFound(session_id)
