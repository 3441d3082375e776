"""What the reaper does: takes back what is over, and makes the four parts agree with the rows again."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TypeVar

from gateway.domain import reconcile
from gateway.domain.audit import Action
from gateway.domain.clock import JUMP, Clock, Moment
from gateway.domain.models import Event, Reason, Session, Status
from gateway.domain.reconcile import Plan, Seen
from gateway.errors import GatewayError, SessionEnded, SessionNotFound
from gateway.services.closing import Closing
from gateway.services.ports import Database, Host, Rows
from gateway.services.routing import Routing

log = logging.getLogger(__name__)

T = TypeVar("T")


class Reconciler:
    """Ended sessions and events are kept for `history`."""

    def __init__(
        self,
        database: Database,
        host: Host,
        closing: Closing,
        routing: Routing,
        *,
        history: timedelta,
        clock: Clock,
    ) -> None:
        self._database = database
        self._host = host
        self._closing = closing
        self._routing = routing
        self._history = history
        self._clock = clock
        self._looked = clock()

    def next_expiry(self) -> timedelta | None:
        """How soon it is; None when there is nothing to wait for."""
        with self._database.read() as rows:
            return rows.next_expiry(self._clock())

    def expired(self) -> Sequence[Session]:
        with self._database.read() as rows:
            return rows.expired(self._clock())

    def reap(self, session: Session) -> None:
        """Take back one that has expired; a failure leaves it `closing`, and one that is gone is fine."""
        with suppress(SessionNotFound, SessionEnded):
            self._closing.close(session.id, Reason.EXPIRED)

    def reconcile(self) -> None:
        """Make the parts agree with the rows again: closing sessions, containers, files, routes, history.

        A part that cannot be looked at keeps none of the others from being put right.
        """
        _attempt("the host's network could not be restored", self._host.ensure)
        now = self._clock()
        with self._database.begin() as rows:
            rows.forget(now.wall - self._history)
            self._follow_wall_clock(rows, now)
        sessions, plan = self.plan()
        self._closing.note(plan.problems)
        for session in sessions:
            if reason := plan.close.get(session.id):
                self._take_back(session, reason)
        for session_id in plan.orphans:
            _attempt("an orphan is left for the next time", partial(self._remove_orphan, session_id))
        _attempt("the routes are not looked at", self._routing.settle)

    def plan(self) -> tuple[Sequence[Session], Plan]:
        """The live sessions, and what must be done about them and about what is left of others.

        Rows are read before containers and GPUs, so what an active row lacks is really missing; a
        container without a row is looked up again, since a row always stands before its container.
        """
        with self._database.read() as rows:
            sessions = rows.list()
        return sessions, reconcile.plan(sessions, self._look(), self._clock())

    def _follow_wall_clock(self, rows: Rows, now: Moment) -> None:
        jump = now.jump_since(self._looked)
        self._looked = now
        if abs(jump) > JUMP:
            log.warning("the wall clock was set, leases last as long as before", extra={"by": str(jump)})
        for session in rows.list():
            if session.status == Status.ACTIVE:
                session.follow_wall_clock(now)

    def _look(self) -> Seen:
        """What the machine shows. Where a part cannot be asked, what it holds is unknown, not gone."""
        containers = _attempt("containers are not looked at", self._host.observe)
        return Seen(
            containers=containers,
            leftovers=_attempt("left-over files are not looked at", self._host.leftovers) or {},
            gpus=_attempt("the slices of sessions are not looked at", self._host.list_gpus) or (),
            up_since=_attempt("restarts are not looked for", self._host.up_since),
        )

    def _take_back(self, seen: Session, reason: Reason) -> None:
        """Close what was judged as it was `seen`, unless its opener was done with it since."""
        with self._database.begin() as rows:
            session = rows.get(seen.id)
            if session is None or session.container_id != seen.container_id:
                return
            self._closing.begin(rows, session, reason)
        log.warning("session is closed", extra={**seen.named, "reason": reason})
        self._closing.finish(session)

    def _remove_orphan(self, session_id: str) -> None:
        with self._host.claim(session_id):
            with self._database.read() as rows:
                if rows.get(session_id):
                    return
            log.warning("removing what is left of a session", extra={"session_id": session_id})
            self._host.stop(session_id, None)
            with self._database.begin() as rows:
                rows.record(Event.of(self._clock().wall, Action.ORPHAN_REMOVED, session_id=session_id))
            self._host.forget(session_id)


def _attempt(otherwise: str, act: Callable[[], T]) -> T | None:
    """What `act` gives; None, and a line in the log, when its part is out of reach."""
    try:
        return act()
    except GatewayError as error:
        log.warning(otherwise, extra={"error": str(error)})
        return None
