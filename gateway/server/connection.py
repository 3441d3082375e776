"""The connection of a client that gunicorn gets. It is readable only when a complete request has arrived."""

import errno
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

RESPONSE_SECONDS = 10.0  # for the client to read one response


class Connection(socket.socket):
    """The TCP connection of `client`, on a file descriptor of its own.

    gunicorn waits on `fileno()`, which becomes readable with `deliver`. `recv` returns the bytes of one
    request and then none, so no thread ever waits for a client to send. `sendall` fails with EPIPE if the
    client has not read the response within `RESPONSE_SECONDS`. `on_consumed` is called when gunicorn has read
    a whole request, and `on_close` when it has closed the connection. `session_uid` is the uid of a program
    in a session; None for every other client. `is_too_large` says whether only the first part of the request
    has come. The application reads both at `environ["gunicorn.socket"]`.
    """

    def __init__(
        self,
        client: socket.socket,
        on_consumed: Callable[[], None],
        on_close: Callable[[], None],
        session_uid: int | None = None,
    ) -> None:
        super().__init__(client.family, client.type, client.proto, os.dup(client.fileno()))
        self.session_uid = session_uid
        self.is_too_large = False
        self._on_consumed, self._on_close = on_consumed, on_close
        self._delivered = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()  # after `close`, the descriptor's number may belong to another file
        self._request = b""
        self._is_last = self._is_next_too_large = False
        self._respond_until: float | None = None

    def deliver(self, request: bytes, is_last: bool = False, is_too_large: bool = False) -> None:
        """Make a request readable. No bytes mean that the client has ended the connection."""
        with self._lock:
            if self._delivered >= 0:
                self._request, self._is_last, self._is_next_too_large = request, is_last, is_too_large
                os.eventfd_write(self._delivered, 1)

    def fileno(self) -> int:
        return self._delivered

    def recv(self, size: int, flags: int = 0) -> bytes:
        with suppress(BlockingIOError):
            os.eventfd_read(self._delivered)
        self.is_too_large = self._is_next_too_large
        data, self._request = self._request[:size], self._request[size:]
        self._respond_until = None
        if data and not self._request and not self._is_last:
            self._on_consumed()
        return data

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        now = time.monotonic()
        self._respond_until = self._respond_until or now + RESPONSE_SECONDS
        self.settimeout(max(self._respond_until - now, 0.001))
        try:
            super().sendall(data, flags)
        except TimeoutError:
            raise BrokenPipeError(errno.EPIPE, "the client does not read the response") from None

    def close(self) -> None:
        with self._lock:
            descriptor, self._delivered = self._delivered, -1
        if descriptor >= 0:
            os.close(descriptor)
            super().close()
            self._on_close()
