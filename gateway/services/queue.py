"""The waiting line: requests that join it, leave it, and get their sessions."""

import logging
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gateway.domain.audit import Action
from gateway.domain.clock import Clock, Moment
from gateway.domain.models import Event, Session
from gateway.domain.states import Reason, Status, cause
from gateway.domain.waiting import TURNOVER, Reservation, Waiter
from gateway.domain.waiting_request import MOST_ATTEMPTS, WaitingRequest
from gateway.domain.words import one_line
from gateway.errors import (
    DatabaseUnavailable,
    GatewayError,
    InvalidRequest,
    NotInLine,
    Promise,
    SessionEnded,
    SessionExists,
    SessionNotFound,
    UserRouted,
    WorkspaceFull,
)
from gateway.failpoints import reach
from gateway.services.disk_use import require_room
from gateway.services.images import DEFAULT
from gateway.services.line import replan
from gateway.services.login_notices import LoginNotices
from gateway.services.ports import Database, Host, Planner, Rows
from gateway.services.sessions import SessionKeys, Sessions, Wanted
from gateway.services.uids import Uids

log = logging.getLogger(__name__)

_FINAL = (InvalidRequest, UserRouted, WorkspaceFull)  # another attempt would fail in the same way


@dataclass(frozen=True, slots=True)
class Place:
    """A request, its place in line, and the private key of a pair that was made for it, which is returned
    only once."""

    request: WaitingRequest
    position: int
    private_key: str | None = None


@dataclass
class Queue:
    """`claim_within` is how long a user has to log in to a session that was opened after a wait; zero: for
    ever."""

    database: Database
    host: Host
    sessions: Sessions
    login_notices: LoginNotices
    claim_within: timedelta
    clock: Clock
    _last_planner: Planner | None = field(default=None, init=False)  # of this process

    def join(self, wanted: Wanted) -> Place:
        """Put a request in line, with the priority that the user's policy gives it. Raises `SessionExists`,
        `PolicyRefused`, `WorkspaceFull`, `NoCapacity` if no GPU of the host can have the profile,
        `InvalidRequest`, `Unavailable`, `DiskFull`."""
        planner, session_id = self.host.line_planner(), str(uuid.uuid4())
        policies, override = self.sessions.policies, wanted.is_override
        image = policies.image_for(wanted.user_id, wanted.image, override) or DEFAULT
        self.sessions.images.pin(image)
        quota, free_uids = (
            self.sessions.quota.watched(),
            Uids(self.database, self.host).free_for(wanted.user_id),
        )
        with self.database.begin() as rows:
            now = self.clock()
            _require_no_other(rows, wanted.user_id)
            user = rows.user(wanted.user_id, free_uids)
            require_room(user, quota)
            terms, keys = policies.terms(rows, user, override), SessionKeys.of(wanted, user)
            terms.image(image)
            terms.require_wait(wanted.wait)
            profile = planner.profile(terms.profile(wanted.mig_profile), rows.cordons())
            lease = terms.ttl(wanted.ttl, self.sessions.longest_ttl)
            policies.require_hours_for(rows, terms, user.id, profile, lease)
            request = WaitingRequest.made(
                session_id,
                user.id,
                profile,
                lease,
                wanted.wait,
                now,
                priority=terms.priority,
                after=max((each.asked_at for each in rows.line()), default=None),
                image=image,
                public_keys=keys.public,
                keys_from=keys.source,
            )
            rows.join_line(request)
            replan(rows, planner, now, overtaking=request.id)
            rows.record_request(user.id, profile, now.wall)
            rows.record(_event(request, Action.WAITING, _promise(request), now))
            place = _place(rows, request)
        reach("after-line-join", DatabaseUnavailable)
        self.login_notices.attempt(user.id)
        log.info("request waits", extra={**request.named, "position": place.position})
        return Place(request, place.position, keys.private)

    def find(self, session_id: str, owner: str | None = None) -> Place | Session:
        """Return the live session with this id, or the request with it that is in line. Raises as
        `Rows.live`."""
        with self.database.read() as rows:
            try:
                return rows.live(session_id, owner)
            except SessionNotFound:
                request = rows.waiting(session_id)
                if request is None or owner not in (None, request.user_id):
                    raise
                return _place(rows, request)

    def places(self, after: int = 0, limit: int | None = None, user_id: str | None = None) -> Sequence[Place]:
        """Return the first `limit` requests behind the position `after`, the first one first. With `user_id`,
        return only the request of this user."""
        with self.database.read() as rows:
            if user_id is None:
                return [Place(each, at) for at, each in enumerate(rows.line(after, limit), start=after + 1)]
            request = rows.waiting_of_user(user_id)
            if request is None or rows.get(request.id):  # its session is being opened
                return []
            place = _place(rows, request)
            return [place] if place.position > after else []

    def move(self, session_id: str, priority: int) -> Place:
        """Set the priority of a request. A higher one overtakes the requests behind its new place, whose
        promises may get later. Raises `NotInLine` for a live session, and as `Rows.live`."""
        planner = self.host.line_planner()
        with self.database.begin() as rows:
            request, now = _require(rows, session_id), self.clock()
            is_raised = priority > request.priority
            rows.record(_event(request, Action.PRIORITY, f"{request.priority} to {priority}", now))
            request.priority = priority
            replan(rows, planner, now, overtaking=session_id if is_raised else None)
            place = _place(rows, request)
        reach("after-line-move", DatabaseUnavailable)
        return place

    def leave(self, session_id: str, owner: str | None = None, note: str | None = None) -> bool:
        """Give up a place in line. Return False if there is no such request, or its session opens by now."""
        with self.database.begin() as rows:
            request = rows.waiting(session_id)
            if request is None or owner not in (None, request.user_id) or rows.get(session_id):
                return False
            self._end(rows, request, Reason.DELETED, self.clock(), note)
        self._replan()
        self.login_notices.attempt(request.user_id)
        return True

    def end(self, session_id: str, owner: str | None = None, note: str = "") -> Session | None:
        """Close a session, or give a place in line up. Return the session if the gateway must repeat a step,
        None when everything is removed. Raises as `Rows.live`."""
        words = one_line(note) or None
        if self.leave(session_id, owner, words):
            return None
        try:
            self.sessions.get(session_id, owner)
            is_closed = self.sessions.close(session_id, note=note)
        except SessionNotFound:
            if self.leave(session_id, owner, words):  # opening it failed meanwhile: it was in line again
                return None
            raise
        with suppress(SessionEnded):  # another thread has repeated the step
            return None if is_closed else self.sessions.get(session_id)
        return None

    # What runs by itself.

    def state(self) -> object:
        """Return a value that changes whenever the line must be planned again; None if nobody waits."""
        with self.database.read() as rows:
            if not rows.is_line_planned():
                return None
            sessions = rows.statuses()
            requests = [(each.id, each.priority, each.attempts) for each in rows.line()]
            return sessions, requests, [(each.gpu, each.starts_at) for each in rows.cordons().values()]

    def next_change(self) -> timedelta | None:
        """Return the time until a reservation begins, or a request gives up or is tried again; None if there
        is no request."""
        now = self.clock()
        with self.database.read() as rows:
            requests = rows.line()
        waiters = [each.waiter(now) for each in requests]
        moments = [each.until for each in waiters]
        moments += [each.reservation.start for each in waiters if each.reservation]
        moments += [each.retry_at for each in requests if each.retry_at]
        return min((at - now.wall for at in moments if at > now.wall), default=None)

    def serve(self) -> Sequence[str]:
        """End the requests whose wait is over, plan the line, and return the ids of those whose sessions can
        be opened now."""
        planner = self._last_planner = self.host.line_planner()
        with self.database.begin() as rows:
            now = self.clock()
            gone = [*self._leave_opened(rows), *self._give_up(rows, now)]
            made = replan(rows, planner, now)
            due = [each.id for each in rows.line() if each.id in made.due and each.can_try(now.wall)]
        for user_id in gone:
            self.login_notices.attempt(user_id)
        return due

    def open(self, session_id: str) -> None:
        """Open the session of a request that is due. If that fails, the request keeps its place in line and
        is tried again later."""
        try:
            opened = self.sessions.open_waiting(session_id)
        except (SessionEnded, SessionNotFound):
            return
        except GatewayError as error:
            log.warning(
                "a waiting request could not be served", extra={"session_id": session_id, "error": str(error)}
            )
            self._fail(session_id, error)
        else:
            log.info("request served", extra=opened.named)

    def gain(self, rows: Rows, session: Session) -> bool:
        """Whether somebody in line gets a session earlier if this one ends now, by the GPUs as they were when
        the line was served last."""
        planner = self._last_planner
        return planner is not None and self._first_to_gain(rows, session, planner) is not None

    def waits_for(self, session: Session) -> Promise | None:
        """Return what the first one in line was promised who gets a session earlier if this one ends now;
        None if there is none, or if the GPUs cannot be read."""
        if not self.places(limit=1):
            return None
        try:
            planner = self._last_planner or self.host.line_planner()
        except GatewayError:
            return None
        with self.database.read() as rows:
            request = self._first_to_gain(rows, session, planner)
        return Promise(request.user_id, request.mig_profile, request.starts_at) if request else None

    def _first_to_gain(self, rows: Rows, session: Session, planner: Planner) -> WaitingRequest | None:
        requests, now = rows.line(), self.clock()
        if not requests:
            return None
        waiters = [each.waiter(now) for each in requests]
        made = planner.plan_line(
            waiters, rows.slices(now), rows.cordons(), rows.demand(), now, ending=session.id
        )
        earlier = (
            request
            for request, waiter in zip(requests, waiters, strict=True)
            if _is_earlier(waiter, made.reservations.get(waiter.id))
        )
        return next(earlier, None)

    def unclaimed(self) -> Sequence[str]:
        """Return the sessions whose users had their time to log in."""
        if not self.claim_within:
            return []
        with self.database.read() as rows:
            return rows.unclaimed(self.clock(), self.claim_within)

    def claim(self, session_id: str) -> None:
        """End a session that nobody has logged in to, and note that the others are used."""
        with self.database.read() as rows:
            session = rows.get(session_id)
        if session is None or session.status != Status.ACTIVE:
            return
        if not self.host.was_used(session):
            self.sessions.close(session_id, Reason.UNCLAIMED)
            return
        with self.database.begin() as rows:
            if row := rows.get(session_id):
                row.is_unclaimed = False

    def _replan(self) -> None:
        """Plan the line at once, if the driver answers; otherwise the opener does it later."""
        with suppress(GatewayError):
            planner = self.host.line_planner()
            with self.database.begin() as rows:
                replan(rows, planner, self.clock())

    def _leave_opened(self, rows: Rows) -> list[str]:
        """Remove the requests whose session is open, and whose opener died before it could."""
        opened = [each for each in rows.opened_from_line() if each.status == Status.ACTIVE]
        finished = [each for each in opened if self.host.is_claimed(each.id) is not True]
        for session in finished:
            rows.leave_line(session.id)
        return [session.user_id for session in finished]

    def _give_up(self, rows: Rows, now: Moment) -> list[str]:
        over = [each for each in rows.line() if each.gives_up(now)]
        failed = [each for each in rows.line() if each.attempts >= MOST_ATTEMPTS and each not in over]
        for request in over:
            self._end(rows, request, Reason.GAVE_UP, now)
        for request in failed:
            self._end(rows, request, Reason.FAILED, now, f"{MOST_ATTEMPTS} attempts to open it failed")
        return [request.user_id for request in (*over, *failed)]

    def _fail(self, session_id: str, error: GatewayError) -> None:
        with self.database.begin() as rows:
            request, now = rows.waiting(session_id), self.clock()
            if request is None or rows.get(session_id) or not request.can_try(now.wall):
                return  # its session closes and puts it back, or has done so
            if isinstance(error, _FINAL):
                self._end(rows, request, Reason.FAILED, now, str(error))
            else:
                request.fail(now.wall)

    def _end(
        self, rows: Rows, request: WaitingRequest, reason: Reason, now: Moment, note: str | None = None
    ) -> None:
        rows.end_waiting(request, reason, now.wall, note)  # the event is counted by the reason in the history
        rows.record(_event(request, Action.ENDED, cause(reason, note), now))


def _require_no_other(rows: Rows, user_id: str) -> None:
    if existing := rows.of_user(user_id):
        raise SessionExists(user_id, existing.id, is_closing=existing.status == Status.CLOSING)
    if waiting := rows.waiting_of_user(user_id):
        raise SessionExists(user_id, waiting.id, is_waiting=True)


def _require(rows: Rows, session_id: str) -> WaitingRequest:
    request = rows.waiting(session_id)
    if request is None or rows.get(session_id):
        raise NotInLine(session_id, rows.live(session_id).user_id)
    return request


def _place(rows: Rows, request: WaitingRequest) -> Place:
    return Place(request, rows.place(request))


def _is_earlier(waiter: Waiter, reservation: Reservation | None) -> bool:
    if reservation is None:
        return False
    return waiter.reservation is None or reservation.start < waiter.reservation.start - TURNOVER


def _promise(request: WaitingRequest) -> str:
    until = f"until {request.wait_until:%Y-%m-%d %H:%M:%S} UTC"
    by = f"promised by {request.starts_at:%Y-%m-%d %H:%M:%S} UTC" if request.starts_at else "nothing promised"
    return f"{request.mig_profile} {until}, {by}"


def _event(request: WaitingRequest, what: Action, detail: str, now: Moment) -> Event:
    at: datetime = now.wall
    return Event.of(at, what, detail, session_id=request.id, user_id=request.user_id)
