"""gunicorn's thread worker, with an end to its patience.

Its threads read requests themselves and wait for ever for the rest of one. Here a connection
has `REQUEST_SECONDS` to deliver a whole request; then its reading half is shut, the thread that waits finds
the end of the data, and the connection is closed. An answer that is still being made is not touched.
"""

import socket
import time
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

REQUEST_SECONDS = 5.0


class Worker(ThreadWorker):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadlines: dict[Any, float] = {}

    def handle(self, conn: Any) -> Any:
        """Runs in a thread of the pool, once for each request of a connection."""
        self._deadlines[conn] = time.monotonic() + REQUEST_SECONDS
        try:
            return super().handle(conn)
        finally:
            del self._deadlines[conn]

    def murder_keepalived(self, *arguments: Any, **options: Any) -> None:
        """The main loop's housekeeping: at least once a second."""
        super().murder_keepalived(*arguments, **options)
        now = time.monotonic()
        for conn, deadline in list(self._deadlines.items()):
            if deadline < now:
                with suppress(OSError):
                    conn.sock.shutdown(socket.SHUT_RD)
