"""Taking a session back: route, container, slice and record, in this order, whoever asks for it."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

from gateway.domain import plan
from gateway.domain.audit import Action
from gateway.domain.clock import Clock
from gateway.domain.models import Event, Reason, Session, Status
from gateway.errors import DatabaseUnavailable, GatewayError
from gateway.failpoints import reach
from gateway.services.ports import Database, Host, Pipes, Rows

log = logging.getLogger(__name__)


class Closing:
    def __init__(self, database: Database, host: Host, pipes: Pipes, clock: Clock) -> None:
        self._database = database
        self._host = host
        self._pipes = pipes
        self._clock = clock

    def close(self, session_id: str, reason: Reason) -> bool:
        """Take back all of a live session; True when all is gone.

        False leaves the session `closing`: for the reaper to try again, or for whoever is still opening it
        to find. Raises `SessionNotFound`, `SessionEnded`, `DatabaseUnavailable`.
        """
        with self._database.begin() as rows:
            session = rows.live(session_id)
            self.begin(rows, session, reason)
        reach("after-closing-commit", DatabaseUnavailable)
        claimed = self._host.is_claimed(session_id)
        return False if session.is_being_opened(self._clock(), claimed) else self.finish(session)

    def begin(self, rows: Rows, session: Session, reason: Reason) -> None:
        """The intent; from its commit on the session can only end."""
        if session.status != Status.CLOSING:
            session.close(reason)
            rows.record(Event.of(self._clock().wall, Action.CLOSING, reason, session=session))

    def finish(self, session: Session) -> bool:
        """The four steps of taking a closing session back; each finds "gone already" a success. True when all
        are done.

        The route goes first, so that nobody logs in to a dying session. Where it cannot be taken away,
        container and slice go all the same, and the row stays: its address is nobody else's until then.
        """
        try:
            with _failing_last(partial(self._remove_pipe, session.id)):
                self._host.stop(session.id, plan.allocation(session))
            with self._database.begin() as rows:
                if row := rows.get(session.id):
                    rows.end(row, self._clock().wall)
                    rows.record(Event.of(self._clock().wall, Action.ENDED, str(row.end_reason), session=row))
            reach("after-end", DatabaseUnavailable)
            self._host.forget(session.id)
        except GatewayError as failure:
            log.warning("closing must be tried again", extra={**session.named, "error": str(failure)})
            with suppress(GatewayError):
                self.note({session.id: str(failure)})
            return False
        log.info("session ended", extra={**session.named, "reason": session.end_reason})
        return True

    def note(self, problems: Mapping[str, str | None]) -> None:
        """What is now wrong with the sessions of these ids; None: nothing any more."""
        if not problems:
            return
        with self._database.begin() as rows:
            for session_id, problem in problems.items():
                session = rows.get(session_id)
                if session and session.problem != problem:
                    session.problem = problem
                    what = Action.RECOVERED if problem is None else Action.PROBLEM
                    what = Action.RETRY if session.status == Status.CLOSING else what
                    rows.record(Event.of(self._clock().wall, what, problem or "", session=session))

    def _remove_pipe(self, session_id: str) -> None:
        self._pipes.remove(session_id)
        reach("after-pipe-remove")


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
