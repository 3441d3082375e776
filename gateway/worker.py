"""gunicorn's thread worker, with an end to its patience.

Its threads read requests and write answers themselves, and wait for ever for a client that does neither send
nor read. Here a connection has `REQUEST_SECONDS` to deliver a whole request; then its reading half is shut,
the thread that waits finds the end of the data, and the connection is closed. From when its answer is made it
has `ANSWER_SECONDS` to take it; then it is shut altogether. Making the answer takes as long as it takes.
"""

import socket
import time
from contextlib import suppress
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

REQUEST_SECONDS = 5.0
ANSWER_SECONDS = 10.0


class Worker(ThreadWorker):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._to_send: dict[socket.socket, float] = {}
        self._to_read: dict[socket.socket, float] = {}

    def load_wsgi(self) -> None:
        super().load_wsgi()
        make = self.wsgi

        def answer(environ: Any, start_response: Any) -> Any:
            made = make(environ, start_response)
            self._to_read[environ["gunicorn.socket"]] = time.monotonic() + ANSWER_SECONDS
            return made

        self.wsgi = answer

    def handle(self, conn: Any) -> Any:
        """Runs in a thread of the pool, once for each request of a connection."""
        connection = conn.sock
        self._to_send[connection] = time.monotonic() + REQUEST_SECONDS
        try:
            return super().handle(conn)
        finally:
            del self._to_send[connection]
            self._to_read.pop(connection, None)

    def murder_keepalived(self, *arguments: Any, **options: Any) -> None:
        """The main loop's housekeeping: at least once a second."""
        super().murder_keepalived(*arguments, **options)
        _shut(self._to_send, socket.SHUT_RD)
        _shut(self._to_read, socket.SHUT_RDWR)


def _shut(deadlines: dict[socket.socket, float], how: int) -> None:
    now = time.monotonic()
    for connection, deadline in list(deadlines.items()):
        if deadline < now:
            with suppress(OSError):
                connection.shutdown(how)
