"""Closes sessions that have ended, and makes the host agree with the rows again."""

import logging
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from gateway.background.rounds import SideBySide
from gateway.domain import reconcile
from gateway.domain.audit import Action
from gateway.domain.clock import JUMP, Clock, Moment
from gateway.domain.live_session import LiveSession
from gateway.domain.models import Event, Session
from gateway.domain.reconcile import Plan
from gateway.domain.states import Reason, Status
from gateway.errors import GatewayError, SessionEnded, SessionNotFound
from gateway.services.closing import Closing
from gateway.services.gpus import GpuInventory
from gateway.services.notices import Notices
from gateway.services.ports import Database, Host
from gateway.services.routing import Routing

log = logging.getLogger(__name__)

_CLOSING_SECONDS = 5.0  # the longest delay of all other repairs by a closing that hangs
_NAMED = 10  # sessions in one line of the log


@dataclass
class Reconciler:
    """Ended sessions and events are kept for `history`."""

    database: Database
    host: Host
    closing: Closing
    routing: Routing
    notices: Notices
    gpus: GpuInventory
    history: timedelta
    clock: Clock
    _last_run: Moment = field(init=False)
    _closers: SideBySide = field(default_factory=lambda: SideBySide("reconcile"), init=False)
    _routes: Hashable = field(default=None, init=False)  # the version that was last compared with the rows

    def __post_init__(self) -> None:
        self._last_run = self.clock()

    def next_expiry(self) -> timedelta | None:
        """Return the time until the next lease ends; None if there is no live session."""
        with self.database.read() as rows:
            return rows.next_expiry(self.clock())

    def expired(self) -> Sequence[Session]:
        with self.database.read() as rows:
            return rows.expired(self.clock())

    def reap(self, session: Session) -> None:
        """Close a session whose lease is over. A failure leaves it `closing`."""
        with suppress(SessionNotFound, SessionEnded):
            self.closing.expire(session.id)

    def reconcile(self) -> None:
        """Make the host agree with the rows: close sessions, repair containers, files and routes.

        Rows older than `history` are deleted. If one part does not answer, the others are still repaired.
        """
        _attempt("the host's shared parts could not be restored", self.host.ensure)
        now = self.clock()
        moved = self._moved(now)
        with self.database.begin() as rows:
            rows.forget(now.wall - self.history)
            for row in rows.some(moved):
                row.follow_wall_clock(now)
        sessions, plan = self.plan()
        self.closing.note(plan.problems)
        closings = {
            session.id: partial(self._close, session, reason)
            for session in sessions
            if (reason := plan.close.get(session.id)) and not self.closing.is_finishing(session.id)
        }
        self._closers.do(closings, _CLOSING_SECONDS)
        if plan.unknown:
            self._refuse_to_sweep(plan.unknown)
        for session_id in plan.repairs:
            _attempt("a session could not be repaired", partial(self.host.repair, session_id))
        for session_id in plan.orphans:
            _attempt("an orphan could not be removed", partial(self._remove_orphan, session_id))
        _attempt("the host could not follow the cordons", self.gpus.enforce_cordons)
        _attempt("the routes could not be published", self.routing.settle)
        _attempt("the files of sessions could not be compared", self.notices.settle)
        _attempt("the notices of users could not be compared", self.closing.login_notices.settle)

    def follow_routes(self) -> None:
        """Publish the routes again if the pipe file changed, because another program may have removed it.

        A file that cannot be written is tried again by `reconcile`, or when it changes again.
        """
        version = self.routing.pipes.version()
        if version != self._routes:
            self._routes = version
            self.routing.publish()

    def plan(self) -> tuple[Sequence[LiveSession], Plan]:
        """Return the live sessions, and what must be done about them and about leftovers.

        The rows are read before the host is observed, so a part of an active session that the host does not
        have is really missing. A session that begins in between can appear as an orphan, so an orphan's row
        is looked up again before anything is removed: a row always exists before its container.
        """
        with self.database.read() as rows:
            sessions = rows.live_sessions()
        seen = self.host.observe(sessions)
        for place, error in seen.unseen.items():
            log.warning("a part of the host does not answer", extra={"place": place, "error": error})
        without_row = set(seen.pods) - {session.id for session in sessions}
        with self.database.read() as rows:
            known = rows.known(without_row)
        return sessions, reconcile.plan(sessions, seen, self.clock(), known)

    def _refuse_to_sweep(self, unknown: Sequence[str]) -> None:
        """An older database was put back, and its users go on to work in these sessions."""
        log.error(
            "too many sessions run without a record, so nothing is removed: stop the gateway and run "
            "`gateway recover`, which records them again",
            extra={"count": len(unknown), "session_ids": unknown[:_NAMED]},
        )

    def _moved(self, now: Moment) -> Sequence[str]:
        """Return the sessions whose leases end at another time now, because somebody set the wall clock."""
        jump = now.jump_since(self._last_run)
        self._last_run = now
        if abs(jump) > JUMP:
            log.warning("the wall clock was set, leases last as long as before", extra={"by": str(jump)})
        with self.database.read() as rows:
            return [
                session.id
                for session in rows.live_sessions()
                if session.status == Status.ACTIVE and session.ends_at(now) != session.expires_at
            ]

    def _close(self, seen: LiveSession, reason: Reason) -> None:
        """Close the session, unless the process that opens it has finished since it was `seen`."""
        with self.database.begin() as rows:
            session = rows.get(seen.id)
            if session is None or session.container_id != seen.container_id:
                return
            self.closing.begin(rows, session, reason)
        log.warning("session is being closed", extra={**seen.named, "reason": reason})
        self.closing.finish(session)

    def _remove_orphan(self, session_id: str) -> None:
        with self.host.claim(session_id):
            with self.database.read() as rows:
                if rows.get(session_id):
                    return
            log.warning("removing the leftovers of a session", extra={"session_id": session_id})
            self.host.stop(session_id, None)
            with self.database.begin() as rows:
                rows.record(Event.of(self.clock().wall, Action.ORPHAN_REMOVED, session_id=session_id))
            self.host.forget(session_id)


def _attempt(failure: str, act: Callable[[], None]) -> None:
    """Call `act`. If it fails, log `failure` and continue: one part must not keep the others from repair."""
    try:
        act()
    except GatewayError as error:
        log.warning(failure, extra={"error": str(error)})
    except Exception:  # noqa: BLE001
        log.exception("internal error in the reconciler; it continues", extra={"error": failure})
