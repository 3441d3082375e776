"""Closes a session: removes its route, container, slice and row, in this order, for every caller."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from gateway.domain import counters
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event, Session
from gateway.domain.states import Reason, Status, cause
from gateway.domain.waiting_request import WaitingRequest
from gateway.errors import DatabaseUnavailable, GatewayError
from gateway.failpoints import reach
from gateway.services.login_notices import LoginNotices
from gateway.services.ports import Database, Host, Pipes, Rows
from gateway.services.usage import UsageLog

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Closing:
    database: Database
    host: Host
    pipes: Pipes
    login_notices: LoginNotices
    usage: UsageLog
    clock: Clock
    _at_work: Counter[str] = field(default_factory=Counter, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def close(self, session_id: str, reason: Reason, note: str | None = None) -> bool:
        """Close a live session. Return True when all of its parts are removed.

        False leaves the session `closing`: the reconciler tries again, or the process that still opens the
        session finds it closing and undoes its own work. Raises `SessionNotFound`, `SessionEnded` and
        `DatabaseUnavailable`.
        """
        with self.database.begin() as rows:
            session = rows.live(session_id)
            self.begin(rows, session, reason, note)
        return self._finish_begun(session)

    def expire(self, session_id: str) -> bool:
        """As `close`, but return True without an effect if an extension has moved the end of the lease."""
        with self.database.begin() as rows:
            session = rows.live(session_id)
            if session.time_left(self.clock()) > timedelta():
                return True
            self.begin(rows, session, Reason.EXPIRED)
        return self._finish_begun(session)

    def begin(self, rows: Rows, session: Session, reason: Reason, note: str | None = None) -> None:
        """Record that the session closes. After the commit it cannot become active again. `note` are the
        words of the caller who closes it. A session that is deleted is not opened again from the line."""
        if reason == Reason.DELETED:
            rows.leave_line(session.id)
        if session.status != Status.CLOSING:
            session.close(reason, note)
            rows.record(Event.of(self.clock().wall, Action.CLOSING, cause(reason, note), session=session))

    def finish(self, session: Session) -> bool:
        """Remove the parts of a closing session. Return True when all are removed, or did not exist.

        The notice that says why comes first, so that it is there when the route goes. The route goes before
        the container, so that no new login reaches the closing session. If the route cannot be
        removed, the container and the slice are still removed. The row then stays without its slice, so that
        no other session gets the address.
        """
        with self._finishing(session.id):
            return self._finish(session)

    def is_finishing(self, session_id: str) -> bool:
        """Whether this process removes parts of the session right now."""
        with self._lock:
            return self._at_work[session_id] > 0

    @contextmanager
    def _finishing(self, session_id: str) -> Iterator[None]:
        with self._lock:
            self._at_work[session_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._at_work.subtract((session_id,))
                if not self._at_work[session_id]:
                    del self._at_work[session_id]

    def _finish(self, session: Session) -> bool:
        try:
            self.login_notices.attempt(session.user_id)
            reach("after-notice-write")
            failure = _failure_of(partial(self._remove_pipe, session.id))
            self.host.stop(session.id, session.allocation)
            if failure:
                self._give_slice_back(session.id)
                raise failure
            with self.database.begin() as rows:
                row, request = rows.get(session.id), rows.waiting(session.id)
                if row is None or row.status != Status.CLOSING:
                    pass  # another thread has ended it; a request in line may be opening its session again
                elif request:
                    self._put_back(rows, row, request)
                    reach("after-put-back", DatabaseUnavailable)
                else:
                    ended = self.usage.end(rows, row, self.clock().wall)
                    rows.record(Event.of(self.clock().wall, Action.ENDED, ended.cause, session=row))
            reach("after-end", DatabaseUnavailable)
            self.host.forget(session.id)
        except GatewayError as failure:
            log.warning("closing failed and is tried again", extra={**session.named, "error": str(failure)})
            with suppress(GatewayError):
                self.note({session.id: str(failure)})
            return False
        log.info("session ended", extra={**session.named, "reason": session.end_reason})
        self.login_notices.attempt(session.user_id)
        return True

    def note(self, problems: Mapping[str, str | None]) -> None:
        """Record the problem of each session, by its id; None if the problem is over."""
        if not problems:
            return
        with self.database.begin() as rows:
            for session_id, problem in problems.items():
                session = rows.get(session_id)
                if session and session.problem != problem:
                    rows.count(counters.gpu_lost_inside(session.problem, problem))
                    session.problem = problem
                    action = Action.RECOVERED if problem is None else Action.PROBLEM
                    action = Action.RETRY if session.status == Status.CLOSING else action
                    rows.record(Event.of(self.clock().wall, action, problem or "", session=session))

    def _put_back(self, rows: Rows, session: Session, request: WaitingRequest) -> None:
        """The session of a waiting request could not be opened: the request is in its place in line again."""
        now = self.clock().wall
        request.fail(now)
        detail = f"in line again after {session.end_reason}, attempt {request.attempts}"
        rows.record(Event.of(now, Action.WAITING, detail, session=session))
        rows.put_back(session)

    def _give_slice_back(self, session_id: str) -> None:
        """The slice is gone before its row: another session may get it."""
        with self.database.begin() as rows:
            row = rows.get(session_id)
            if row and row.status == Status.CLOSING:
                row.forget_slice()

    def _finish_begun(self, session: Session) -> bool:
        reach("after-closing-commit", DatabaseUnavailable)
        claimed = self.host.is_claimed(session.id)
        return False if session.is_being_opened(self.clock(), claimed) else self.finish(session)

    def _remove_pipe(self, session_id: str) -> None:
        self.pipes.remove(session_id)
        reach("after-pipe-remove")


def _failure_of(act: Callable[[], None]) -> GatewayError | None:
    try:
        act()
    except GatewayError as failure:
        return failure
    return None
