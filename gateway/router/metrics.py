"""What the router counts, and the small HTTP server that shows it to Prometheus.

The server is a part of the supervisor's loop, which must not wait: a client that is slow is dropped.
"""

import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

_MOST_CLIENTS, _CLIENT_SECONDS, _LARGEST_REQUEST = 16, 5.0, 8192
_END_OF_REQUEST = b"\r\n\r\n"
_PREFIX = "gpu_gateway_router_"
_COUNTED = (
    ("accepted", "logins", "Logins that reached a session."),
    ("refused", "refused", "Connections that ended without a login."),
    ("turned away", "turned_away", "Connections refused before SSH began."),
)


class Counts(Collector):
    """The router's metrics. They begin at zero when the router starts."""

    def __init__(self) -> None:
        self._numbers = {event: 0 for event, _, _ in _COUNTED}
        self._connections = 0

    def note(self, event: str) -> None:
        """Count an event of a worker, or `turned away`."""
        if event in self._numbers:
            self._numbers[event] += 1

    def exposition(self, connections: int) -> bytes:
        self._connections = connections
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        for event, name, help in _COUNTED:
            yield CounterMetricFamily(f"{_PREFIX}{name}", help, self._numbers[event])
        yield GaugeMetricFamily(f"{_PREFIX}connections", "Open connections.", self._connections)


@dataclass(slots=True)
class _Client:
    connection: socket.socket
    deadline: float
    received: bytes = b""


@dataclass
class MetricsPage:
    """Answers each GET /metrics on `listener` with what `exposition` returns."""

    listener: socket.socket
    exposition: Callable[[], bytes]
    selector: selectors.BaseSelector
    _clients: dict[socket.socket, _Client] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, self)

    def serve(self, ready: object, now: float) -> None:
        """Handle a socket that is ready to be read: the listener, or a client."""
        if ready is self.listener:
            self._accept(now)
        elif isinstance(ready, socket.socket) and ready in self._clients:
            self._read(self._clients[ready])

    def drop_slow(self, now: float) -> None:
        for client in list(self._clients.values()):
            if now >= client.deadline:
                self._end(client)

    def abandon(self) -> None:
        """Close the sockets in a new process, which must not change the selector that it shares."""
        for each in (self.listener, *self._clients):
            each.close()

    def _accept(self, now: float) -> None:
        try:
            connection, _ = self.listener.accept()
        except OSError:
            return
        if len(self._clients) >= _MOST_CLIENTS:
            connection.close()
            return
        connection.setblocking(False)
        self._clients[connection] = _Client(connection, now + _CLIENT_SECONDS)
        self.selector.register(connection, selectors.EVENT_READ, self)

    def _read(self, client: _Client) -> None:
        try:
            piece = client.connection.recv(_LARGEST_REQUEST)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        client.received += piece
        if _END_OF_REQUEST in client.received:
            self._answer(client)
        if not piece or _END_OF_REQUEST in client.received or len(client.received) > _LARGEST_REQUEST:
            self._end(client)

    def _answer(self, client: _Client) -> None:
        method, _, rest = client.received.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        is_found = method == b"GET" and path == b"/metrics"
        body = self.exposition() if is_found else b"Use GET /metrics.\n"
        status = "200 OK" if is_found else "404 Not Found"
        kind = CONTENT_TYPE_PLAIN_0_0_4 if is_found else "text/plain; charset=utf-8"
        fields = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close"
        head = f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n"
        with suppress(OSError):  # a few KiB fit into the buffer of a new connection
            client.connection.send(head.encode() + body)

    def _end(self, client: _Client) -> None:
        del self._clients[client.connection]
        self.selector.unregister(client.connection)
        client.connection.close()
