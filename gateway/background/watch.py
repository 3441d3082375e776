"""Follows the host's events about containers that end, so that their sessions are closed at once.

The events only save time. Events that are lost while the connection to the host is broken do no harm,
because the reconciler runs as soon as the connection exists again.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from gateway.domain.plan import Endings
from gateway.domain.states import Status
from gateway.errors import GatewayError
from gateway.services.ports import Database, Host

log = logging.getLogger(__name__)

_BEGIN_SECONDS = 1  # the longest delay that a host without an answer causes at the end of a lease
_END_SECONDS = 5


class Watch:
    """Follows the events in a thread. A broken connection is made again after `pause_seconds`."""

    def __init__(self, database: Database, host: Host, pause_seconds: float = 1.0) -> None:
        self._database = database
        self._host = host
        self._pause = pause_seconds
        self._over = threading.Event()
        self._tried = threading.Event()
        self._endings: Endings | None = None

    @contextmanager
    def following(self, wake: Callable[[], None]) -> Iterator[None]:
        """Run a thread that follows the events until the end of the block.

        It calls `wake` each time that a connection begins, and when the container of an active session has
        ended. The block begins after the first attempt to connect, so that its first run of the reconciler
        is the one that the connection needs.
        """
        self._over.clear()
        self._tried.clear()
        thread = threading.Thread(target=self._run, args=(wake,), name="watch", daemon=True)
        thread.start()
        self._tried.wait(_BEGIN_SECONDS)
        try:
            yield
        finally:
            self._over.set()
            if self._endings:
                self._endings.close()
            thread.join(_END_SECONDS)

    def _run(self, wake: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                self._follow(wake)
            except GatewayError as error:
                log.debug("the events of containers cannot be followed", extra={"error": str(error)})
            except Exception:  # noqa: BLE001
                log.exception("internal error in the watch; it continues")
            self._tried.set()
            self._over.wait(self._pause)

    def _follow(self, wake: Callable[[], None]) -> None:
        with closing(self._host.endings()) as endings:
            self._endings = endings
            if self._over.is_set():  # the block ended before `_endings` was set, so nothing closed it
                return
            wake()
            self._tried.set()
            for session_id in endings:
                if self._is_unexpected(session_id):
                    wake()

    def _is_unexpected(self, session_id: str) -> bool:
        """Whether the session is active. If the gateway itself removes a container, its session is closing or
        gone."""
        with self._database.read() as rows:
            session = rows.get(session_id)
        return session is not None and session.status == Status.ACTIVE
