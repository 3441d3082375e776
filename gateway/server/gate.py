"""The gate in front of gunicorn's threads. One thread reads from all clients and passes on complete requests.

Without the gate, gunicorn's thread worker reads each request in a thread that waits for the client. A few
hundred clients that send one byte and stop would occupy all threads.
"""

import ipaddress
import json
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any

from gateway.server.arrival import Arrival, Progress
from gateway.server.connection import Connection

REQUEST_SECONDS = 5.0  # for one request to arrive, counted from the connection or from its first byte
MOST_PARTIAL = 512  # connections without a complete request; the oldest one is closed for a new one
MOST_PARTIAL_BY_ADDRESS = 64  # the same for each address; for each /64 of IPv6
_MOST_READY = 1024  # complete requests that wait for gunicorn; the gate answers 503 to any more
_LINGER_SECONDS = 2.0  # to discard what a client still sends, so that the client can read the response
_TICK_SECONDS = 1.0
_PAUSE_SECONDS = 0.01  # after a connection that was refused
_CHUNK = 65536  # bytes
_SEND_BUFFER = 2**20  # bytes; nearly all responses fit, so that no thread waits for the client to read

log = logging.getLogger(__name__)


class Client:
    """`since` is when the connection or the first byte of its request arrived; None between requests.
    `session_uid` is the uid of a program in a session; None for any other client."""

    def __init__(self, accepted: socket.socket, peer: Any, session_uid: int | None = None) -> None:
        self.socket = accepted
        self.peer = peer
        self.session_uid = session_uid
        self.network = _network(peer) if session_uid is None else f"uid {session_uid}"
        self.connection: Connection | None = None  # from the first complete request on
        self.arrival = Arrival()
        self.since: float | None = time.monotonic()

    def is_late(self, seconds: float) -> bool:
        return self.since is not None and time.monotonic() - self.since > seconds

    def respond(self, response: bytes) -> None:
        with suppress(OSError):
            self.socket.send(response, socket.MSG_DONTWAIT)


class Gate:
    """Replaces a listening socket: `accept` returns connections with a complete request.

    The gate accepts connections while `is_open()` is True. Call `start` after the fork.
    """

    def __init__(self, listener: Any, is_open: Callable[[], bool]) -> None:
        self._listener = listener
        self._is_open = is_open
        self._partial: dict[Client, None] = {}  # about in the order of `since`, the oldest first
        self._closing: dict[Client, None] = {}
        self._ready: SimpleQueue[Client] = SimpleQueue()
        self._ready_count = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC | os.EFD_SEMAPHORE)
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._called = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="gate", daemon=True)
        self._stopped = False
        self._paused_until = 0.0

    def start(self) -> None:
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._called, selectors.EVENT_READ, self._run_calls)
        self._thread.start()

    # The methods of a listening socket that gunicorn calls.

    def accept(self) -> tuple[Connection, Any]:
        """Return the next connection with a complete request. Raises `BlockingIOError` if there is none."""
        os.eventfd_read(self._ready_count)
        client = self._ready.get()
        assert client.connection is not None
        return client.connection, client.peer

    def fileno(self) -> int:
        return self._ready_count

    def getsockname(self) -> Any:
        return self._listener.getsockname()

    def setblocking(self, _blocking: bool) -> None:
        """`accept` never blocks."""

    def close(self) -> None:
        self._stopped = True
        self._call(lambda: None)
        self._thread.join(_TICK_SECONDS)
        self._listener.close()

    # The methods below run in the gate's own thread, except `_call`.

    def _run(self) -> None:
        ticks_at = 0.0
        while not self._stopped:
            for key, _ in self._selector.select(_PAUSE_SECONDS if self._paused_until else _TICK_SECONDS):
                self._attempt(key.data)
            if self._paused_until and time.monotonic() >= self._paused_until:
                self._attempt(self._go_on)
            if (now := time.monotonic()) > ticks_at:
                ticks_at = now + _TICK_SECONDS
                self._attempt(self._tick)
        self._selector.close()
        for client in [*self._partial, *self._closing]:
            client.socket.close()

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            log.exception("the gate failed at one step")

    def _call(self, step: Callable[[], None]) -> None:
        """Let the gate's thread run `step`."""
        self._calls.put(step)
        os.eventfd_write(self._called, 1)

    def _run_calls(self) -> None:
        os.eventfd_read(self._called)
        while not self._calls.empty():
            self._attempt(self._calls.get())

    def _accept(self) -> None:
        try:
            accepted, peer = self._listener.accept()
        except OSError:  # another worker accepted it first, or no descriptor is free
            if len(self._partial) >= MOST_PARTIAL_BY_ADDRESS:
                self._refuse(next(iter(self._partial)))
            return
        if client := self._admit(accepted, peer):
            self._expect_request(client)
            self._keep_within_limits(client.network)

    # What another kind of gate does differently.

    def _admit(self, accepted: socket.socket, peer: Any) -> Client | None:
        """Return the client of a new connection; None if it was refused."""
        return Client(accepted, peer)

    def _new_arrival(self) -> Arrival:
        return Arrival()

    def _refusal(self, client: Client, progress: Progress) -> bytes | None:
        """Return the response to a request that the application does not get."""
        return None

    def _left(self, client: Client) -> None:
        """The connection is closed."""

    def _pause(self) -> None:
        """Accept no connection for a moment."""
        if self._listener in self._selector.get_map():
            self._selector.unregister(self._listener)
            self._paused_until = time.monotonic() + _PAUSE_SECONDS

    def _go_on(self) -> None:
        self._paused_until = 0.0
        if self._is_open():
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def _keep_within_limits(self, network: str) -> None:
        same = [client for client in self._partial if client.network == network]
        if len(same) > MOST_PARTIAL_BY_ADDRESS:
            self._refuse(same[0])
        elif len(self._partial) > MOST_PARTIAL:
            self._refuse(next(iter(self._partial)))

    def _expect_request(self, client: Client) -> None:
        self._partial[client] = None
        self._selector.register(client.socket, selectors.EVENT_READ, partial(self._read, client))

    def _stop_reading(self, client: Client) -> None:
        if client in self._partial:
            del self._partial[client]
            self._selector.unregister(client.socket)

    def _read(self, client: Client) -> None:
        data = _receive(client.socket)
        if data:
            self._feed(client, data)
        elif data is not None:
            self._end(client)

    def _feed(self, client: Client, data: bytes) -> None:
        client.since = client.since or time.monotonic()
        progress = client.arrival.feed(data)
        if progress is not Progress.PARTIAL:
            self._stop_reading(client)
            if refusal := self._refusal(client, progress):
                self._refuse_with(client, refusal)
            else:
                self._hand_over(client, progress)
        elif client.arrival.expects_continue:
            client.respond(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _hand_over(self, client: Client, progress: Progress) -> None:
        request = bytes(client.arrival.data)
        end = {"is_last": progress is not Progress.COMPLETE, "is_too_large": progress is Progress.TOO_LARGE}
        if client.connection:
            client.connection.deliver(request, **end)
        elif self._ready.qsize() >= _MOST_READY:
            self._respond_and_close(client, _BUSY)
        else:
            client.connection = Connection(
                client.socket,
                on_consumed=partial(self._call, partial(self._expect_next, client)),
                on_close=partial(self._call, partial(self._close, client)),
                session_uid=client.session_uid,
            )
            client.connection.deliver(request, **end)
            self._ready.put(client)
            os.eventfd_write(self._ready_count, 1)

    def _expect_next(self, client: Client) -> None:
        if client not in self._closing:
            rest, client.arrival, client.since = client.arrival.rest, self._new_arrival(), None
            self._expect_request(client)
            if rest:
                self._feed(client, rest)

    def _refuse(self, client: Client) -> None:
        """Close a connection whose request has not arrived. Send a response only if there was none before."""
        if client.connection:
            self._end(client)
        else:
            self._respond_and_close(client, _LATE)

    def _refuse_with(self, client: Client, response: bytes) -> None:
        if client.connection:
            client.respond(response)
            self._end(client)
        else:
            self._respond_and_close(client, response)

    def _end(self, client: Client) -> None:
        self._stop_reading(client)
        if client.connection:
            client.connection.deliver(b"")
        else:
            self._close(client)

    def _respond_and_close(self, client: Client, response: bytes) -> None:
        client.respond(response)
        with suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
        self._close(client)

    def _close(self, client: Client) -> None:
        """Discard what the client still sends, then close. With unread bytes at the close, the kernel resets
        the connection, and the client may lose the response."""
        self._stop_reading(client)
        client.since = time.monotonic()
        self._closing[client] = None
        self._selector.register(client.socket, selectors.EVENT_READ, partial(self._discard, client))

    def _discard(self, client: Client) -> None:
        if _receive(client.socket) == b"":
            self._drop(client)

    def _drop(self, client: Client) -> None:
        del self._closing[client]
        self._selector.unregister(client.socket)
        client.socket.close()
        self._left(client)

    def _tick(self) -> None:
        for client in [client for client in self._partial if client.is_late(REQUEST_SECONDS)]:
            self._refuse(client)
        for client in [client for client in self._closing if client.is_late(_LINGER_SECONDS)]:
            self._drop(client)
        if not self._is_open() and self._listener in self._selector.get_map():
            self._selector.unregister(self._listener)


def _receive(client: socket.socket) -> bytes | None:
    """Return the bytes that have arrived; None if there are none yet, and no bytes at the client's end of the
    connection."""
    try:
        return client.recv(_CHUNK, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _network(peer: Any) -> str:
    """Return the network whose connections share a limit. All clients of a unix socket share one."""
    if not isinstance(peer, tuple):
        return "unix"
    address = ipaddress.ip_address(peer[0].partition("%")[0])
    return str(ipaddress.ip_network((address, 64), strict=False)) if address.version == 6 else str(address)


def problem(status: int, kind: str, title: str, detail: str) -> bytes:
    body = json.dumps({"type": f"/problems/{kind}", "title": title, "status": status, "detail": detail})
    headers = ["Content-Type: application/problem+json", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([f"HTTP/1.1 {status} {title}", *headers, "", body]).encode()


_LATE = problem(
    408,
    "request-timeout",
    "The request did not arrive in full",
    f"Send the request within {REQUEST_SECONDS:g} s, and at most {MOST_PARTIAL_BY_ADDRESS} at a time.",
)
_BUSY = problem(503, "busy", "The gateway has too many requests", "Try again in a few seconds.")
