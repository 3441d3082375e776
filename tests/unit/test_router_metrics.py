"""The router's /metrics, over a real socket and without the rest of the router."""

import os
import selectors
import socket
from collections.abc import Iterator

import pytest

from gateway.router.metrics import Counts, MetricsPage


class Loop:
    """A supervisor's loop that serves nothing but the page."""

    def __init__(self, listener: socket.socket) -> None:
        self.counts, self.now = Counts(), 0.0
        self.selector = selectors.DefaultSelector()
        self.page = MetricsPage(listener, lambda: self.counts.exposition(7), self.selector)

    def turn(self, times: int = 5) -> None:
        for _ in range(times):
            for key, _ in self.selector.select(0.05):
                key.data.serve(key.fileobj, self.now)
            self.page.drop_slow(self.now)


@pytest.fixture
def loop() -> Iterator[Loop]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loop = Loop(listener)
        yield loop
        loop.selector.close()
        loop.page.abandon()


def connect(loop: Loop) -> socket.socket:
    client = socket.create_connection(loop.page.listener.getsockname(), timeout=5)
    loop.turn()
    return client


def ask(loop: Loop, request: bytes) -> bytes:
    with connect(loop) as client:
        client.sendall(request)
        loop.turn()
        received = b""
        while piece := client.recv(65536):
            received += piece
        return received


def is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_what_was_counted_is_served(loop: Loop) -> None:
    for event in ("accepted", "accepted", "refused", "turned away", "closed", "fault"):
        loop.counts.note(event)
    response = ask(loop, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").decode()
    assert response.startswith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
    lines = [line for line in response.splitlines() if line.startswith("gpu_gateway_router_")]
    assert lines == [
        "gpu_gateway_router_logins_total 2.0",
        "gpu_gateway_router_refused_total 1.0",
        "gpu_gateway_router_turned_away_total 1.0",
        "gpu_gateway_router_connections 7.0",
    ]


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1", b"POST /metrics HTTP/1.1", b"SSH-2.0-x"])
def test_another_request_is_not_found(loop: Loop, request_line: bytes) -> None:
    assert ask(loop, request_line + b"\r\n\r\n").startswith(b"HTTP/1.1 404 Not Found")


def test_a_client_that_sends_too_much_is_dropped(loop: Loop) -> None:
    with connect(loop) as client:
        client.sendall(b"G" * 9000)
        loop.turn()
        assert is_closed(client)


def test_a_client_that_sends_nothing_is_dropped_after_five_seconds(loop: Loop) -> None:
    with connect(loop) as client:
        loop.now = 4.9
        loop.turn(1)
        client.sendall(b"GET /met")
        loop.now = 5.0
        loop.turn()
        assert client.recv(1) == b""


def test_clients_above_the_limit_are_turned_away(loop: Loop) -> None:
    clients = [connect(loop) for _ in range(17)]
    assert clients[16].recv(1) == b""
    for client in clients:
        client.close()


def test_a_process_that_is_forked_leaves_the_page_to_its_parent(loop: Loop) -> None:
    child = os.fork()
    if child == 0:
        loop.page.abandon()
        os._exit(0)
    os.waitpid(child, 0)
    assert ask(loop, b"GET /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 OK")
