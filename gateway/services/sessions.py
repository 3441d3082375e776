"""Opens, gets, lists and closes sessions.

Transactions are short and include no call to the host and no write to a file. The plan is committed before
anything is made. Every part can therefore be found from a row, and a failed start is undone by closing.
"""

import logging
import uuid
from collections.abc import MutableSequence, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.domain import counters, ssh_keys
from gateway.domain.audit import Action
from gateway.domain.clock import Clock, Moment
from gateway.domain.counters import Counter
from gateway.domain.forecast import Line
from gateway.domain.live_session import ListedSession, SessionSlice
from gateway.domain.models import Event, Session, User
from gateway.domain.plan import Allocation, SessionPlan, SessionRequest, Started
from gateway.domain.states import KeysFrom, Reason, Status
from gateway.domain.waiting import Plan
from gateway.domain.waiting_request import WaitingRequest
from gateway.domain.words import one_line
from gateway.errors import (
    AddressTaken,
    DatabaseUnavailable,
    GatewayError,
    NoCapacity,
    PlacementTaken,
    SessionEnded,
    SessionExists,
    SessionNotFound,
    Unavailable,
    UserRouted,
    WorkspaceRefused,
)
from gateway.failpoints import reach
from gateway.services.closing import Closing
from gateway.services.disk_use import require_room
from gateway.services.images import DEFAULT, Images
from gateway.services.line import line_of, replan
from gateway.services.notices import Notices
from gateway.services.policies import Policies
from gateway.services.ports import Database, Host, Pipes, Planner, Rows
from gateway.services.quota import WorkspaceQuota
from gateway.services.routing import Routing
from gateway.services.uids import Uids

log = logging.getLogger(__name__)

_ATTEMPTS = 3  # another process may take the placement or the address first


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that is ready for its user. `private_key` is the user's, if the gateway made the key pair. It
    is returned only here."""

    session: Session
    private_key: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """The caller's request. `public_keys` are parsed; None if the caller gave none. `ttl` is None for the
    user's default. `is_override`: the user's policy does not matter. `wait` is how long the request may wait
    in line. `waited` is the id of the request in line that becomes the session; its policy was checked when
    it joined the line."""

    user_id: str
    ttl: timedelta | None
    mig_profile: str | None
    public_keys: tuple[str, ...] | None
    image: str | None
    is_override: bool
    keys_from: KeysFrom = KeysFrom.GIVEN
    waited: str | None = None
    wait: timedelta = timedelta(0)

    @classmethod
    def of(cls, request: WaitingRequest) -> "Wanted":
        keys, source = tuple(request.public_keys) or None, KeysFrom(request.keys_from)
        lease, profile = request.lease, request.mig_profile
        return cls(request.user_id, lease, profile, keys, request.image, True, source, request.id)


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The keys that open a session, and the private key of a pair that was made for it."""

    public: Sequence[str]
    source: KeysFrom
    private: str | None = None

    @classmethod
    def of(cls, wanted: Wanted, user: User) -> "SessionKeys":
        """Use the keys of the request, otherwise the keys stored for the user, otherwise a new pair."""
        if wanted.public_keys:
            return cls(wanted.public_keys, wanted.keys_from)
        if user.public_keys or wanted.keys_from == KeysFrom.STORED:
            return cls(user.public_keys, KeysFrom.STORED)
        pair = ssh_keys.make_pair()
        return cls([pair.public], KeysFrom.MADE, pair.private)


@dataclass(frozen=True)
class Sessions:
    database: Database
    host: Host
    pipes: Pipes
    closing: Closing
    routing: Routing
    quota: WorkspaceQuota
    notices: Notices
    images: Images
    policies: Policies
    longest_ttl: timedelta
    clock: Clock

    def open(
        self,
        user_id: str,
        ttl: timedelta | None = None,
        mig_profile: str | None = None,
        public_keys: Sequence[str] | None = None,
        is_override: bool = False,
        image: str | None = None,
    ) -> Opened:
        """Open a session and return it when its user can log in. After an error no part of it is left, except
        what the reconciler must remove.

        Raises `SessionExists`, `UserRouted`, `PolicyRefused`, `WorkspaceFull`, `NoCapacity`,
        `InvalidRequest`, `Unavailable`, `DiskFull`.
        """
        return self.open_wanted(self.wanted(user_id, ttl, mig_profile, public_keys, is_override, image))

    def wanted(
        self,
        user_id: str,
        ttl: timedelta | None,
        mig_profile: str | None,
        public_keys: Sequence[str] | None,
        is_override: bool,
        image: str | None,
        wait: timedelta = timedelta(0),
    ) -> Wanted:
        """Check a request and return it. Raises `InvalidRequest`, `UserRouted`, `PipesUnavailable`."""
        parsed = ssh_keys.parse_public_keys(public_keys) if public_keys else None
        if self.pipes.routed_elsewhere([user_id]):
            raise UserRouted(user_id)
        return Wanted(user_id, ttl, mig_profile, parsed, image, is_override, wait=wait)

    def open_waiting(self, session_id: str) -> Session:
        """Open the session of a request in line, whose reservation begins. If that fails, the request is in
        line again. Raises as `open`, and `SessionNotFound` if the request has left the line."""
        with self.database.read() as rows:
            request = rows.waiting(session_id)
        if request is None:
            raise SessionNotFound(session_id)
        if self.closing.is_finishing(session_id):
            raise Unavailable("The last attempt to open the session is still being undone.")
        wanted = Wanted.of(request)
        if self.pipes.routed_elsewhere([wanted.user_id]):
            raise UserRouted(wanted.user_id)
        return self._open(wanted, []).session

    def get(self, session_id: str, owner: str | None = None) -> Session:
        """As `Rows.live`."""
        with self.database.read() as rows:
            return rows.live(session_id, owner)

    def list(
        self,
        owner: str | None = None,
        after: tuple[datetime, str] | None = None,
        limit: int | None = None,
    ) -> Sequence[ListedSession]:
        """As `Rows.page`."""
        with self.database.read() as rows:
            return rows.page(owner, after, limit)

    def close(self, session_id: str, reason: Reason = Reason.DELETED, note: str = "") -> bool:
        """As `Closing.close`."""
        return self.closing.close(session_id, reason, one_line(note) or None)

    def open_wanted(self, wanted: Wanted) -> Opened:
        """As `open`. Try other placements or addresses if the host cannot allocate the first one."""
        refused: list[Allocation] = []
        failures: list[PlacementTaken | AddressTaken] = []
        while len(failures) < _ATTEMPTS:
            try:
                return self._open(wanted, refused)
            except (PlacementTaken, AddressTaken) as failure:
                failures.append(failure)
            except NoCapacity:
                if not failures:
                    raise
                break
        raise failures[-1]

    def _open(self, wanted: Wanted, refused: MutableSequence[Allocation]) -> Opened:
        """Raise `PlacementTaken` if the host cannot make the allocation, and add it to `refused`."""
        session_id = wanted.waited or str(uuid.uuid4())
        with self.host.claim(session_id):  # before the row exists, so that its readers see the claim
            try:
                session, plan, private_key = self._reserve(session_id, wanted, refused)
            except BaseException as error:
                self.host.forget(session_id)
                if isinstance(error, NoCapacity) and error.mig_profile and not wanted.waited:
                    self._record_refusal(wanted.user_id, error.mig_profile)
                raise
            try:
                reach("after-intent-commit", DatabaseUnavailable)
                session = self._activate(session, self.host.start(plan))
                reach("after-activate", DatabaseUnavailable)
                self.notices.show(session.id)
                if wanted.waited:  # held logins read it when the route is there
                    self.closing.login_notices.attempt(session.user_id)
                if not self.routing.admit(session.id):
                    raise SessionEnded(session.id, str(session.end_reason), self.clock().wall)
                reach("after-pipe-publish")
                if wanted.waited:
                    self._leave_line(session.id)
                self.closing.login_notices.attempt(session.user_id)
            except BaseException as error:
                self._undo(session, error)
                if isinstance(error, PlacementTaken) and plan.allocation:
                    refused.append(plan.allocation)
                raise
        log.info("session opened", extra=session.named)
        return Opened(session, private_key)

    def _record_refusal(self, user_id: str, mig_profile: str) -> None:
        """Count a refused request as demand. A failure of the database does not replace the refusal."""
        with suppress(GatewayError), self.database.begin() as rows:
            rows.record_request(user_id, mig_profile, self.clock().wall)
            rows.count([counters.refused(mig_profile)])

    def _reserve(
        self, session_id: str, wanted: Wanted, refused: Sequence[Allocation]
    ) -> tuple[Session, SessionPlan, str | None]:
        """Commit the row. Return it with its plan, and with the user's private key if a pair was made."""
        planner, quota = self.host.planner(), self.quota.watched()
        seen = self._seen() if planner.is_advice else None
        image = self.policies.image_for(wanted.user_id, wanted.image, wanted.is_override) or DEFAULT
        image_id = self.images.pin(image)
        free_uids = Uids(self.database, self.host).free_for(wanted.user_id)
        router, sshd = ssh_keys.make_pair(), ssh_keys.make_pair()
        with self.database.begin() as rows:
            self._require_turn(rows, wanted)
            user = rows.user(wanted.user_id, free_uids)
            require_room(user, quota)
            terms = self.policies.terms(rows, user, wanted.is_override)
            terms.image(image)
            terms.require_wait(wanted.wait)
            keys = SessionKeys.of(wanted, user)
            now = self.clock()
            begins = now.wall.replace(microsecond=0)
            request = SessionRequest(
                session_id=session_id,
                user_id=user.id,
                uid=user.uid,
                mig_profile=terms.profile(wanted.mig_profile),
                created_at=begins,
                expires_at=begins + terms.ttl(wanted.ttl, self.longest_ttl),
                router_key=router.public,
                host_key=sshd,
                image=image_id,
            )
            line = self._line(rows, wanted, planner, now)
            live = rows.slices(now) if seen is None else seen
            plan = planner.plan(request, live, rows.cordons(), rows.demand(), refused, line)
            self.policies.require_hours(rows, terms, plan)
            session = Session.planned(
                plan,
                image=image,
                max_lease_minutes=terms.max_lease_minutes,
                public_keys=keys.public,
                keys_from=keys.source,
                private_key=router.private,
                now=now,
            )
            rows.add(session)
            self._record(rows, wanted, session, planner, now)
            plan = replace(plan, board=self.notices.board_of(rows, session, quota))
        return session, plan, keys.private

    def _seen(self) -> Sequence[SessionSlice]:
        """Return the slices of all sessions. While they are read, other requests may write."""
        with self.database.read() as rows:
            return rows.slices(self.clock())

    def _record(self, rows: Rows, wanted: Wanted, session: Session, planner: Planner, now: Moment) -> None:
        """Record what follows from a new session: later promises, demand, and the event."""
        session.is_unclaimed = wanted.waited is not None
        if rows.is_line_planned():
            replan(rows, planner, now)
        if not wanted.waited:
            rows.record_request(session.user_id, session.mig_profile, session.created_at)
        detail = f"{session.mig_profile} until {session.expires_at:%Y-%m-%d %H:%M:%S} UTC"
        detail += ", beyond the policy" if wanted.is_override and not wanted.waited else ""
        rows.record(Event.of(session.created_at, Action.CREATED, detail, session=session))

    def _require_turn(self, rows: Rows, wanted: Wanted) -> None:
        """Raise `SessionExists` if the user has a session or waits for one, and `SessionNotFound` if the
        request is not in line any more."""
        if existing := rows.of_user(wanted.user_id):
            raise SessionExists(wanted.user_id, existing.id, is_closing=existing.status == Status.CLOSING)
        waiting = rows.waiting_of_user(wanted.user_id)
        if wanted.waited and (waiting is None or waiting.id != wanted.waited):
            raise SessionNotFound(wanted.waited)
        if waiting and not wanted.waited:
            raise SessionExists(wanted.user_id, waiting.id, is_waiting=True)

    def _line(self, rows: Rows, wanted: Wanted, planner: Planner, now: Moment) -> Line:
        """Return what the new session must respect. What has become free goes to the line first. A request
        that waited gets the slice of its reservation. Raises `NoCapacity` if that does not begin now."""
        made = replan(rows, planner, now) if rows.line() else Plan({})
        line = line_of(rows, now, besides=wanted.waited)
        if wanted.waited is None:
            return line
        if wanted.waited not in made.due:
            raise NoCapacity("The slice that was promised is not free yet.", mig_profile=wanted.mig_profile)
        return replace(line, reservation=made.reservations.get(wanted.waited))

    def _leave_line(self, session_id: str) -> None:
        """The session is open: its request is not needed any more. After a failure the opener removes it."""
        try:
            with self.database.begin() as rows:
                rows.leave_line(session_id)
            reach("after-line-leave", DatabaseUnavailable)
        except GatewayError as error:
            failure = {"session_id": session_id, "error": str(error)}
            log.warning("the request of an open session is removed later", extra=failure)

    def _activate(self, opened: Session, started: Started) -> Session:
        """Record what the host made. Raises `SessionEnded` if the session was closed meanwhile."""
        with self.database.begin() as rows:
            session = rows.live(opened.id)
            now = self.clock()
            rows.vacate(started, session.id)
            session.activate(started, now.wall)
            if session.status == Status.ACTIVE:
                detail = f"container {started.container_id[:12]}, slice {started.allocation.mig_uuid}"
                rows.record(Event.of(now.wall, Action.OPENED, detail, session=session))
                rows.count(counters.observed(Counter.OPEN_SECONDS, session.age(now).total_seconds()))
                if request := rows.waiting(session.id):
                    waited = (now.wall - request.asked_at).total_seconds()
                    rows.count(counters.observed(Counter.WAIT_SECONDS, waited))
        if session.status == Status.CLOSING:
            raise SessionEnded(session.id, str(session.end_reason), self.clock().wall)
        return session

    def _undo(self, opened: Session, error: BaseException) -> None:
        """Close the session. If another program made an instance at the placement, that instance stays."""
        log.warning("session failed to open", extra={**opened.named, "error": _why(error)})
        try:
            with self.database.begin() as rows:
                session = rows.live(opened.id)
                rows.record(Event.of(self.clock().wall, Action.FAILED, _why(error), session=session))
                session.close(Reason.FAILED)
                if isinstance(error, WorkspaceRefused):  # another attempt would fail in the same way
                    rows.leave_line(session.id)
                if isinstance(error, PlacementTaken):
                    session.forget_slice()
            self.closing.finish(session)
        except GatewayError as failure:
            log.warning("undoing failed and is tried again", extra={**opened.named, "error": str(failure)})


def _why(error: BaseException) -> str:
    """Return the text of a `GatewayError`. Of an unexpected error, users see only the type."""
    return str(error) if isinstance(error, GatewayError) else f"an internal error: {type(error).__name__}"
