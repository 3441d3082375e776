"""What people do with sessions: open, get, list, close.

Transactions are short and never span a call to Docker, the driver or a file. The intent is committed
before the act: whatever exists can be found from a row, and undoing a failed start is closing it.
"""

import ipaddress
import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from gateway.domain import addresses, ssh_keys
from gateway.domain import plan as planning
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.mig import Gpu, MigPolicy
from gateway.domain.models import Event, KeysFrom, Reason, Session, Status
from gateway.domain.occupancy import Occupancy
from gateway.domain.plan import SessionPlan, Started
from gateway.errors import (
    DatabaseUnavailable,
    GatewayError,
    PlacementTaken,
    SessionEnded,
    SessionExists,
    UserRouted,
)
from gateway.failpoints import reach
from gateway.services.closing import Closing
from gateway.services.disk_use import DiskUse, require_room
from gateway.services.ports import Database, Host, Pipes
from gateway.services.routing import Routing

log = logging.getLogger(__name__)

# Another program that shares the driver may be faster, so often that it is no coincidence.
_CHOICES = 3


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that is ready for its user. `private_key` is there once, when the gateway made the pair."""

    session: Session
    private_key: str | None


class Sessions:
    """The use cases. `subnet` is where the sessions' addresses come from."""

    def __init__(
        self,
        database: Database,
        host: Host,
        pipes: Pipes,
        closing: Closing,
        routing: Routing,
        disk_use: DiskUse,
        *,
        subnet: ipaddress.IPv4Network,
        mig_policy: MigPolicy,
        clock: Clock,
    ) -> None:
        self._database = database
        self._host = host
        self._pipes = pipes
        self._closing = closing
        self._routing = routing
        self._disk_use = disk_use
        self._subnet = subnet
        self._policy = mig_policy
        self._clock = clock

    def open(
        self,
        user_id: str,
        ttl: timedelta,
        mig_profile: str | None = None,
        public_keys: Sequence[str] | None = None,
    ) -> Opened:
        """A session that its user can reach when this returns; nothing is left behind when it raises.

        Raises `SessionExists`, `UserRouted`, `WorkspaceFull`, `NoCapacity`, `InvalidRequest`, `Unavailable`,
        `DiskFull`.
        """
        given_keys = ssh_keys.parse_public_keys(public_keys) if public_keys else None
        if self._pipes.routed_elsewhere([user_id]):
            raise UserRouted(user_id)
        for _ in range(_CHOICES - 1):
            with suppress(PlacementTaken):
                return self._open(user_id, ttl, mig_profile, given_keys)
        return self._open(user_id, ttl, mig_profile, given_keys)

    def get(self, session_id: str, owner: str | None = None) -> Session:
        """As `Rows.live`."""
        with self._database.read() as rows:
            return rows.live(session_id, owner)

    def list(self, owner: str | None = None) -> Sequence[Session]:
        with self._database.read() as rows:
            return [session for session in rows.list() if owner in (None, session.user_id)]

    def close(self, session_id: str, reason: Reason = Reason.DELETED) -> bool:
        """As `Closing.close`."""
        return self._closing.close(session_id, reason)

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
                self._pipes.add(planning.pipe(session))
                reach("after-pipe-publish")
                session = self._activate(session, started)
                if session.disconnect_due:
                    self._routing.enforce(session_id)
                reach("after-activate", DatabaseUnavailable)
            except BaseException as error:
                self._undo(session, error)
                raise
        log.info("session opened", extra=session.named)
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
        gpus, quota = self._host.list_gpus(), self._disk_use.watched_quota()
        router, sshd = ssh_keys.make_pair(), ssh_keys.make_pair()
        with self._database.begin() as rows:
            if existing := rows.of_user(user_id):
                raise SessionExists(user_id, existing.id)
            user = rows.user(user_id)
            require_room(user, quota)
            now = self._clock()
            dated = now.wall.replace(microsecond=0)
            others = rows.list()
            occupancy = Occupancy(gpus, others, rows.cordons(), self._policy)
            profile = occupancy.offered(profile)
            gpu, allocation = occupancy.place(profile, dated + ttl, dated, rows.demand())
            made = None if public_keys or user.public_keys else ssh_keys.make_pair()
            keys_from = KeysFrom.MADE if made else KeysFrom.GIVEN if public_keys else KeysFrom.STORED
            session = Session(
                id=session_id,
                user_id=user_id,
                status=Status.PENDING,
                mig_profile=profile,
                gpu=gpu.uuid,
                start=allocation.placement.start,
                size=allocation.placement.size,
                borrowed=allocation.borrowed,
                address=addresses.free_address(self._subnet, {other.address for other in others}),
                public_keys=[made.public] if made else list(public_keys or user.public_keys),
                keys_from=keys_from,
                private_key=router.private,
                host_key=sshd.public,
            )
            session.lease_from(now, ttl)
            rows.add(session)
            rows.record(
                Event.of(
                    dated,
                    Action.CREATED,
                    f"{profile} until {session.expires_at:%Y-%m-%d %H:%M:%S} UTC",
                    session=session,
                )
            )
        plan = planning.plan(session, user.uid, allocation, router, sshd)
        return session, plan, gpu, made.private if made else None

    def _activate(self, opened: Session, started: Started) -> Session:
        with self._database.begin() as rows:
            session = rows.live(opened.id)
            session.activate(started.container_id, started.gpu_uuid)
            if session.public_keys != opened.public_keys:  # those published meanwhile are out of date
                session.disconnect_due = True
            if session.status == Status.ACTIVE:
                told = f"container {started.container_id[:12]}, slice {started.gpu_uuid}"
                rows.record(Event.of(self._clock().wall, Action.OPENED, told, session=session))
        if session.status == Status.CLOSING:
            raise SessionEnded(session.id, str(session.end_reason), self._clock().wall)
        return session

    def _undo(self, opened: Session, error: BaseException) -> None:
        """Undoing is closing. A placement that was somebody else's already must not be destroyed."""
        log.warning("session failed to open", extra={**opened.named, "error": _why(error)})
        try:
            with self._database.begin() as rows:
                session = rows.live(opened.id)
                rows.record(Event.of(self._clock().wall, Action.FAILED, _why(error), session=session))
                session.close(Reason.FAILED)
                if isinstance(error, PlacementTaken):
                    session.forget_slice()
            self._closing.finish(session)
        except GatewayError as failure:
            log.warning("undoing must be tried again", extra={**opened.named, "error": str(failure)})


def _why(error: BaseException) -> str:
    """A defect's own words are for the log."""
    return str(error) if isinstance(error, GatewayError) else f"a defect: {type(error).__name__}"
