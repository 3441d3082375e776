"""The gate, over real sockets, with a test in gunicorn's place."""

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.server import connection as connections
from gateway.server import gate as gates
from gateway.server.connection import Connection
from gateway.server.gate import Gate

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
RESPONSE = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(gates, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(gates, "_LINGER_SECONDS", 0.1)


class Ground:
    """A gate and its clients; `open` says whether gunicorn still takes connections."""

    def __init__(self, listener: socket.socket, stack: ExitStack, kind: type[Gate] = Gate) -> None:
        self.open = True
        self.gate = kind(listener, lambda: self.open)
        self.gate.start()
        self._address = listener.getsockname()
        self._family = listener.family
        self._stack = stack

    def client(self, sent: bytes = b"") -> socket.socket:
        client = self._stack.enter_context(socket.socket(self._family))
        client.settimeout(5)
        client.connect(self._address)
        client.sendall(sent)
        return client

    def accepted(self) -> Connection:
        """The next connection that gunicorn would get, as it would wait for it."""
        assert readable(self.gate), "no complete request within 5 s"
        accepted, _ = self.gate.accept()
        self._stack.callback(accepted.close)
        return accepted


def readable(waited_for: Gate | Connection, seconds: float = 5) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(waited_for, selectors.EVENT_READ)
        return bool(selector.select(seconds))


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def received(client: socket.socket) -> bytes:
    """All until the end."""
    whole = b""
    while piece := client.recv(65536):
        whole += piece
    return whole


@pytest.fixture
def ground() -> Iterator[Ground]:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        ground = Ground(listener, stack)
        stack.callback(ground.gate.close)
        yield ground


def test_a_connection_is_accepted_with_its_first_complete_request(ground: Ground) -> None:
    client = ground.client(REQUEST[:10])
    assert not readable(ground.gate, 0.1)
    with pytest.raises(BlockingIOError):
        ground.gate.accept()
    client.sendall(REQUEST[10:])
    accepted = ground.accepted()
    assert accepted.recv(8192) == REQUEST
    accepted.sendall(RESPONSE)
    accepted.close()
    assert received(client) == RESPONSE


def test_reading_never_waits_for_the_client(ground: Ground) -> None:
    ground.client(REQUEST)
    accepted = ground.accepted()
    assert [accepted.recv(20), accepted.recv(8192), accepted.recv(8192)] == [REQUEST[:20], REQUEST[20:], b""]


def test_a_connection_that_stays_open_is_readable_with_each_complete_request(ground: Ground) -> None:
    client = ground.client(REQUEST)
    accepted = ground.accepted()
    for _ in range(3):
        assert readable(accepted)
        assert accepted.recv(8192) == REQUEST
        accepted.sendall(RESPONSE)
        assert client.recv(8192) == RESPONSE
        client.sendall(REQUEST[:5])
        assert not readable(accepted, 0.05)
        client.sendall(REQUEST[5:])


def test_requests_sent_in_one_piece_are_delivered_one_by_one(ground: Ground) -> None:
    ground.client(REQUEST * 3)
    accepted = ground.accepted()
    for _ in range(3):
        assert readable(accepted)
        assert accepted.recv(8192) == REQUEST


def test_a_request_that_does_not_arrive_in_time_is_answered_408(ground: Ground) -> None:
    answer = received(ground.client(REQUEST[:10]))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer
    assert not readable(ground.gate, 0)


def test_a_second_request_that_does_not_arrive_in_time_ends_the_connection(ground: Ground) -> None:
    ground.client(REQUEST + b"G")
    accepted = ground.accepted()
    accepted.recv(8192)
    assert readable(accepted)
    assert accepted.recv(8192) == b""


def test_a_connection_without_a_request_in_progress_has_no_deadline(ground: Ground) -> None:
    ground.client(REQUEST)
    accepted = ground.accepted()
    accepted.recv(8192)
    assert not readable(accepted, 0.6)


def test_what_is_no_http_is_passed_on_for_a_response_and_is_the_last_request(ground: Ground) -> None:
    client = ground.client(b"\x00\xff\r\n\r\n")
    accepted = ground.accepted()
    assert [accepted.recv(8192), accepted.recv(8192)] == [b"\x00\xff\r\n\r\n", b""]
    client.sendall(REQUEST)
    assert not readable(accepted, 0.1)


def test_of_one_address_the_oldest_partial_request_gives_way(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "REQUEST_SECONDS", 60)
    slow = [ground.client(b"G") for _ in range(gates.MOST_PARTIAL_BY_ADDRESS)]
    ground.client(REQUEST)
    assert ground.accepted().recv(8192) == REQUEST
    first, *others = slow
    assert received(first).startswith(b"HTTP/1.1 408 ")
    others[-1].sendall(REQUEST[1:])
    assert ground.accepted().recv(8192) == REQUEST


def test_a_response_that_is_not_read_in_time_fails_like_a_broken_connection(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "RESPONSE_SECONDS", 0.1)
    ground.client(REQUEST)
    accepted = ground.accepted()
    accepted.recv(8192)
    with pytest.raises(BrokenPipeError):
        accepted.sendall(b"a" * 2**26)


def test_unread_bytes_of_the_client_do_not_destroy_the_response(ground: Ground) -> None:
    client = ground.client(REQUEST + b"x" * 100)
    accepted = ground.accepted()
    accepted.recv(8192)
    accepted.sendall(RESPONSE)
    accepted.shutdown(socket.SHUT_WR)
    accepted.close()
    client.sendall(b"y" * 100_000)
    assert received(client) == RESPONSE


def test_a_client_that_leaves_before_its_request_is_complete_is_forgotten(ground: Ground) -> None:
    before = open_files()
    for _ in range(10):
        ground.client(b"GET").close()
    ground.client(REQUEST).close()
    accepted = ground.accepted()
    assert [accepted.recv(8192), accepted.recv(8192)] == [REQUEST, b""]
    accepted.close()
    eventually(lambda: open_files() <= before)


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it(ground: Ground) -> None:
    head = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    client = ground.client(head)
    assert client.recv(8192).startswith(b"HTTP/1.1 100 ")
    client.sendall(b"{}")
    assert ground.accepted().recv(8192) == head + b"{}"


def test_a_gate_whose_worker_stops_takes_no_more_connections(ground: Ground) -> None:
    ground.open = False
    time.sleep(0.1)  # several ticks
    ground.client(REQUEST)
    assert not readable(ground.gate, 0.2)


def test_clients_of_a_unix_socket_are_served_as_well(tmp_path: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "gate.sock"))
        listener.listen()
        ground = Ground(listener, stack)
        stack.callback(ground.gate.close)
        client = ground.client(REQUEST)
        accepted = ground.accepted()
        assert accepted.recv(8192) == REQUEST
        accepted.sendall(RESPONSE)
        accepted.close()
        assert received(client) == RESPONSE
