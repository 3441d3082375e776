"""What people and the reaper do with sessions: open, get, list, close, reap, reconcile.

Transactions are short and never span a call to Docker, the driver or a file. The intent is committed
before the act: whatever exists can be found from a row, and undoing a failed start is closing it.
"""

import ipaddress
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from gateway import keys, placement, reconcile
from gateway.errors import (
    GatewayError,
    NoCapacity,
    PlacementTaken,
    SessionEnded,
    SessionExists,
    SessionNotFound,
    UnknownProfile,
)
from gateway.host import SSH_PORT, Host, SessionPlan, SliceLease
from gateway.keys import KeyPair
from gateway.mig import Gpu, MigMode
from gateway.models import EndedSession, Reason, Session, Status, User
from gateway.pipe_file import Pipe

log = logging.getLogger("gateway.sessions")


class Rows(Protocol):
    """The verbs of one transaction over the sessions' rows."""

    def add(self, session: Session) -> None: ...
    def get(self, session_id: str) -> Session | None: ...
    def of_user(self, user_id: str) -> Session | None: ...
    def list(self) -> Sequence[Session]: ...
    def expired(self, now: datetime) -> Sequence[Session]: ...
    def next_expiry(self) -> datetime | None: ...
    def user(self, user_id: str) -> User: ...
    def public_keys(self, user_id: str) -> Sequence[str]: ...
    def end(self, session: Session, now: datetime) -> EndedSession: ...
    def get_ended(self, session_id: str) -> EndedSession | None: ...
    def forget_ended(self, before: datetime) -> None: ...


class Database(Protocol):
    """Hands out transactions; raises `DatabaseUnavailable`, `DiskFull`."""

    def begin(self) -> AbstractContextManager[Rows]: ...
    def read(self) -> AbstractContextManager[Rows]: ...
    def check(self) -> None: ...


class Pipes(Protocol):
    """The pipe file; raises `PipesUnavailable`, `DiskFull`."""

    def add(self, pipe: Pipe) -> None: ...
    def remove(self, session_id: str) -> None: ...
    def replace(self, wanted: Callable[[], Iterable[Pipe]]) -> None: ...
    def check(self) -> None: ...


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
        history: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._host = host
        self._pipes = pipes
        self._subnet = subnet
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
        session, plan, gpu, made_key = self._reserve(user_id, ttl, mig_profile, given_keys)
        try:
            started = self._host.start(plan, gpu)
            self._pipes.add(_pipe(session))
            session = self._activate(session.id, started.container_id, started.gpu_uuid)
        except BaseException as error:
            self._undo(session.id, error)
            raise
        log.info("session opened", extra={"session_id": session.id, "user_id": user_id})
        return Opened(session, made_key)

    def get(self, session_id: str) -> Session:
        """Raises `SessionNotFound` for an id that never was, `SessionEnded` for one that is over."""
        with self._database.read() as rows:
            return _live(rows, session_id)

    def list(self) -> Sequence[Session]:
        with self._database.read() as rows:
            return rows.list()

    def close(self, session_id: str, reason: Reason = Reason.DELETED) -> bool:
        """Take back route, container, slice and record, in this order; True when all four are gone.

        False leaves the session `closing`: for the reaper to try again, or for whoever is still opening it
        to find. Raises as `get` does.
        """
        with self._database.begin() as rows:
            session = _live(rows, session_id)
            session.close(reason)
        return False if session.is_being_opened(self._clock()) else self._finish(session)

    def occupancy(self) -> tuple[Sequence[Gpu], Sequence[placement.Lease]]:
        """The GPUs, and every piece of them that is not free: what their driver shows and what sessions
        were promised."""
        gpus = self._host.list_gpus()
        return gpus, _taken(gpus, self.list())

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

        Rows are read before containers, so a container missing for an active row is really missing;
        a container without a row is looked up again, since a row always stands before its container.
        """
        self._host.secure()
        with self._database.begin() as rows:
            sessions = rows.list()
            rows.forget_ended(self._clock() - self._history)
        plan = reconcile.plan(sessions, self._host.observe(), self._host.remains(), self._clock())
        for session_id, reason in plan.close.items():
            log.warning("session is closed: %s", reason, extra={"session_id": session_id})
            with suppress(SessionNotFound, SessionEnded):
                self.close(session_id, reason)
        for session_id in plan.orphans:
            self._remove_orphan(session_id)
        self._pipes.replace(self._wanted_pipes)

    def _reserve(
        self, user_id: str, ttl: timedelta, profile: str | None, public_keys: tuple[str, ...] | None
    ) -> tuple[Session, SessionPlan, Gpu, str | None]:
        """Commit the intent: the row, with GPU, profile, placement and address, stands before the act."""
        gpus = self._host.list_gpus()
        profile = _offered(gpus, profile)
        router, sshd = keys.make_pair(), keys.make_pair()
        with self._database.begin() as rows:
            if existing := rows.of_user(user_id):
                raise SessionExists(user_id, existing.id)
            user = rows.user(user_id)
            now = self._clock().replace(microsecond=0)
            live = rows.list()
            gpu, lease = _place(gpus, live, profile, now + ttl, now)
            made = None if public_keys or user.public_keys else keys.make_pair()
            session = Session(
                id=str(uuid.uuid4()),
                user_id=user_id,
                status=Status.PENDING,
                mig_profile=profile,
                gpu=gpu.uuid,
                start=lease.placement.start,
                size=lease.placement.size,
                address=_free_address(self._subnet, {other.address for other in live}),
                public_keys=[made.public] if made else list(public_keys or user.public_keys),
                private_key=router.private,
                host_key=sshd.public,
                created_at=now,
                expires_at=now + ttl,
            )
            rows.add(session)
        plan = _plan(session, user.uid, lease, router, sshd)
        return session, plan, gpu, made.private if made else None

    def _activate(self, session_id: str, container_id: str, gpu_uuid: str) -> Session:
        with self._database.begin() as rows:
            session = _live(rows, session_id)
            if session.status == Status.CLOSING:
                raise SessionEnded(session_id, str(session.end_reason), self._clock())
            session.activate(container_id, gpu_uuid)
            return session

    def _undo(self, session_id: str, error: BaseException) -> None:
        """Undoing is closing. A placement that was somebody else's already must not be destroyed."""
        log.warning("session failed to open: %s", error, extra={"session_id": session_id})
        try:
            with self._database.begin() as rows:
                session = _live(rows, session_id)
                session.close(Reason.FAILED)
                if isinstance(error, PlacementTaken):
                    session.forget_slice()
            self._finish(session)
        except GatewayError as failure:
            log.warning("undoing it must be tried again: %s", failure, extra={"session_id": session_id})

    def _finish(self, session: Session) -> bool:
        """The four steps of taking a closing session back; each finds "gone already" a success."""
        try:
            self._pipes.remove(session.id)
            self._host.stop(session.id, _lease(session))
            with self._database.begin() as rows:
                if row := rows.get(session.id):
                    rows.end(row, self._clock())
        except GatewayError as failure:
            log.warning("closing it must be tried again: %s", failure, extra={"session_id": session.id})
            return False
        log.info("session ended", extra={"session_id": session.id, "reason": session.end_reason})
        return True

    def _remove_orphan(self, session_id: str) -> None:
        with self._database.read() as rows:
            if rows.get(session_id):
                return
        log.warning("removing what is left of a session", extra={"session_id": session_id})
        self._host.stop(session_id, None)

    def _wanted_pipes(self) -> Sequence[Pipe]:
        """The routes that should be there; read while the pipe file is locked, or one published in between
        would be lost. Pending sessions count: theirs is published before they are active."""
        with self._database.read() as rows:
            return [_pipe(session) for session in rows.list() if session.status != Status.CLOSING]


def _live(rows: Rows, session_id: str) -> Session:
    if session := rows.get(session_id):
        return session
    if ended := rows.get_ended(session_id):
        raise SessionEnded(session_id, ended.reason, ended.ended_at)
    raise SessionNotFound(session_id)


def _offered(gpus: Sequence[Gpu], name: str | None) -> str:
    """`name` if a GPU offers it; the smallest profile when none was asked for."""
    offered = {profile.name: profile for gpu in gpus for profile in gpu.profiles}
    if not offered:
        raise NoCapacity(_why_no_profiles(gpus))
    if name is None:
        return min(
            offered.values(), key=lambda profile: (profile.compute_slices, profile.memory_mib, profile.name)
        ).name
    if name not in offered:
        raise UnknownProfile(name, sorted(offered))
    return name


def _why_no_profiles(gpus: Sequence[Gpu]) -> str:
    if not gpus:
        return "This host has no GPU that its driver knows of."
    modes = {gpu.mig_mode for gpu in gpus}
    if MigMode.PENDING_RESET in modes:
        return "MIG was switched but the GPUs were not reset since; run `nvidia-smi --gpu-reset` or reboot."
    if MigMode.DISABLED in modes:
        return "MIG is off on every GPU here; an administrator turns it on with `nvidia-smi -i 0 -mig 1`."
    return "No GPU of this host supports MIG."


def _place(
    gpus: Sequence[Gpu], live: Sequence[Session], profile: str, expires_at: datetime, now: datetime
) -> tuple[Gpu, SliceLease]:
    taken = _taken(gpus, live)
    chosen = placement.choose(gpus, taken, profile, expires_at, now)
    if chosen is None:
        fit = placement.next_fit(gpus, taken, profile, now)
        raise NoCapacity(f"No GPU has room for a {profile} now.", retry_at=fit.at if fit else None)
    gpu, place = chosen
    return gpu, SliceLease(gpu.uuid, profile, place)


def _taken(gpus: Sequence[Gpu], live: Sequence[Session]) -> list[placement.Lease]:
    """Instances that stand and leases that are promised; one that is both counts once, as the lease."""
    leases = {
        (session.gpu, session.placement): placement.Lease(
            session.gpu, session.mig_profile, session.placement, session.expires_at, session.id
        )
        for session in live
        if session.gpu is not None and session.placement is not None
    }
    others = [
        placement.Lease(instance.gpu_uuid, instance.profile, instance.placement, None)
        for gpu in gpus
        for instance in gpu.instances
        if (instance.gpu_uuid, instance.placement) not in leases
    ]
    return [*leases.values(), *others]


def _free_address(subnet: ipaddress.IPv4Network, used: set[str]) -> str:
    hosts = subnet.hosts()
    next(hosts)  # the bridge's own
    for address in hosts:
        if str(address) not in used:
            return str(address)
    raise NoCapacity(f"All addresses of the sessions' network {subnet} are in use.")


def _lease(session: Session) -> SliceLease | None:
    if session.gpu is None or session.placement is None:
        return None
    return SliceLease(session.gpu, session.mig_profile, session.placement)


def _plan(session: Session, uid: int, lease: SliceLease, router: KeyPair, sshd: KeyPair) -> SessionPlan:
    return SessionPlan(
        session_id=session.id,
        user_id=session.user_id,
        uid=uid,
        lease=lease,
        address=session.address,
        router_key=router.public,
        host_key=sshd,
        expires_at=session.expires_at,
    )


def _pipe(session: Session) -> Pipe:
    return Pipe(
        session_id=session.id,
        username=session.user_id,
        public_keys=tuple(session.public_keys),
        host=session.address,
        port=SSH_PORT,
        private_key=session.private_key,
        host_key=session.host_key,
    )
