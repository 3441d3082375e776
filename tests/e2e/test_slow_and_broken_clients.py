"""Clients that dawdle or send garbage, against a served gateway."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from gateway.server.connection import RESPONSE_SECONDS
from gateway.server.gate import REQUEST_SECONDS
from tests.whole_gateway import Gateway, eventually

HALF_A_HEADER = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "
HALF_A_BODY = (
    b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
)

A_REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = [
    b"G",
    b"\x00",
    HALF_A_BODY,
    HALF_A_BODY.replace(b"Content-Length: 99", b"Transfer-Encoding: chunked").replace(
        b"{", b"4\r\n\r\n\r\n\r\n"
    ),
    HALF_A_BODY.replace(b"\r\n\r\n{", b"\r\nExpect: 100-continue\r\n\r\n"),
    A_REQUEST + b"G",
    A_REQUEST.replace(b"/healthz", b"/openapi.json"),  # whose response nobody reads
    A_REQUEST.replace(b"Host", b"Connection: close\r\nHost"),  # but the client never closes
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Serving; these clients need no router and no session."""
    gateway = Gateway(tmp_path_factory.mktemp("slow"))
    assert gateway.run("migrate").returncode == 0
    gateway.serve()
    yield gateway
    gateway.kill("serve")


def connect(gateway: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=REQUEST_SECONDS + 10)


def is_open(port: int, client: socket.socket) -> bool:
    """Whether the server at `port` has shut nothing yet of its connection with `client`."""
    ends = f":{port:04X} 0100007F:{client.getsockname()[1]:04X} 01 "
    return ends in Path("/proc/net/tcp").read_text()


def answer_to(gateway: Gateway, sent: bytes) -> bytes:
    with connect(gateway) as connection:
        connection.sendall(sent)
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
        return answer


def test_a_hundred_half_sent_requests_block_nobody_and_are_cut_off(served: Gateway) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(served)) for _ in range(100)]
        for number, connection in enumerate(slow):
            connection.sendall((HALF_A_HEADER, HALF_A_BODY)[number % 2])
        begun = time.monotonic()
        assert requests.get(f"{served.url}/healthz", timeout=REQUEST_SECONDS).ok
        print(f"/healthz beside 100 slow clients: {(time.monotonic() - begun) * 1000:.0f} ms")
        for connection in slow[:50]:
            while connection.recv(4096):
                pass  # whatever it says before it closes


@pytest.mark.parametrize("sent", SLOW, ids=lambda sent: repr(sent[:12]))
def test_six_hundred_slow_clients_of_one_address_do_not_slow_others_down(
    served: Gateway, sent: bytes
) -> None:
    with ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(connect(served)).sendall(sent)
        took = []
        for _ in range(10):
            begun = time.monotonic()
            assert requests.get(f"{served.url}/healthz", timeout=REQUEST_SECONDS).ok
            took.append(time.monotonic() - begun)
        print(f"/healthz beside 600 slow clients: {max(took) * 1000:.0f} ms at most")
        assert max(took) < 2


def test_who_does_not_read_the_answers_is_cut_off(served: Gateway) -> None:
    """More answers than the kernel keeps for a connection, so that a thread waits to write the next."""
    size, asked = len(requests.get(f"{served.url}/openapi.json").content), 400
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * asked)
        assert requests.get(f"{served.url}/healthz", timeout=REQUEST_SECONDS).ok
        eventually(lambda: not is_open(served.port, connection), 4 * RESPONSE_SECONDS)
        received = 0
        with suppress(ConnectionResetError):
            while piece := connection.recv(2**20):
                received += len(piece)
    assert size < received < size * asked


def local(sent: bytes) -> bytes:
    return sent.replace(b"Host: x", b"Host: localhost")


def in_chunks(body: bytes) -> bytes:
    return HALF_A_BODY.replace(b"Content-Length: 99", b"Transfer-Encoding: chunked")[:-1] + body


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x00\xff\xfe\r\n\r\n", 400),
        (b"GET /%00%ff/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 421),
        (b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-Many: 1\r\n" * 60 + b"\r\n", 431),
        (b"POST /sessions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (HALF_A_BODY.replace(b"\r\n\r\n{", b"\r\nExpect: much\r\n\r\n" + b"x" * 99), 417),
        (local(HALF_A_BODY.replace(b"99", b"99999999")), 413),
        (local(in_chunks(b"zz\r\n{}\r\n0\r\n\r\n")), 400),
        (local(in_chunks((b"10000\r\n" + b" " * 65536 + b"\r\n") * 9)), 413),
    ],
    ids=lambda value: repr(value[:12]) if isinstance(value, bytes) else None,
)
def test_garbage_is_the_clients_fault(served: Gateway, sent: bytes, status: int) -> None:
    answer = answer_to(served, sent)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head
    assert json.loads(body)["status"] == status
