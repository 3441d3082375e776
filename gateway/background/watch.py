"""Follows what the host tells of sessions' containers that end, so that nobody waits for the next look.

It is a hint that makes things quick. What a broken connection or a restart of Docker kept from being told
is found by looking, which is done as soon as following begins again.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from gateway.domain.models import Status
from gateway.domain.plan import Endings
from gateway.errors import GatewayError
from gateway.services.ports import Database, Host

log = logging.getLogger(__name__)

_BEGIN_SECONDS = 1  # a Docker that hangs delays no lease's end by more
_END_SECONDS = 5


class Watch:
    """A connection that broke is made again after `pause_seconds`."""

    def __init__(self, database: Database, host: Host, pause_seconds: float = 1.0) -> None:
        self._database = database
        self._host = host
        self._pause = pause_seconds
        self._over = threading.Event()
        self._tried = threading.Event()
        self._endings: Endings | None = None

    @contextmanager
    def following(self, look: Callable[[], None]) -> Iterator[None]:
        """Until the end of the block a thread calls `look` each time that it begins to follow, and when the
        container of an active session has ended. The block begins once it has tried to follow, so that the
        first look of whoever works there is that one too."""
        self._over.clear()
        self._tried.clear()
        thread = threading.Thread(target=self._run, args=(look,), name="watch", daemon=True)
        thread.start()
        self._tried.wait(_BEGIN_SECONDS)
        try:
            yield
        finally:
            self._over.set()
            if self._endings:
                self._endings.close()
            thread.join(_END_SECONDS)

    def _run(self, look: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                self._follow(look)
            except GatewayError as error:
                log.debug("containers are not followed", extra={"error": str(error)})
            except Exception:  # noqa: BLE001
                log.exception("the watch ran into a defect and goes on")
            self._tried.set()
            self._over.wait(self._pause)

    def _follow(self, look: Callable[[], None]) -> None:
        with closing(self._host.endings()) as endings:
            self._endings = endings
            if self._over.is_set():  # it was too early to be closed by whoever said so
                return
            look()
            self._tried.set()
            for session_id in endings:
                if self._is_news(session_id):
                    look()

    def _is_news(self, session_id: str) -> bool:
        """Not where the gateway itself removes the container: its session is closing then, or gone."""
        with self._database.read() as rows:
            session = rows.get(session_id)
        return session is not None and session.status == Status.ACTIVE
