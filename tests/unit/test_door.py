"""The gate that programs in sessions come by, over real unix sockets, with a test in gunicorn's place."""

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.errors import StartRefused
from gateway.server import door as module
from gateway.server import gate as gates
from gateway.server.door import LARGEST_BODY, MOST_CONNECTIONS, REQUESTS_AT_ONCE, Door, DoorGate
from tests.unit.test_gate import REQUEST, Ground, eventually, readable, received


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates, "_TICK_SECONDS", 0.02)
    monkeypatch.setattr(gates, "REQUEST_SECONDS", 0.3)
    monkeypatch.setattr(gates, "_LINGER_SECONDS", 0.1)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """The tests' own directories are too long for the address of a socket that `connect` gets."""
    with ExitStack() as stack:
        path = Path(f"/tmp/gateway-door-{os.getpid()}")
        stack.callback(lambda: shutil.rmtree(path, ignore_errors=True))
        yield path


@pytest.fixture
def ground(short_path: Path) -> Iterator[Ground]:
    with ExitStack() as stack:
        door = Door(short_path)
        ground = Ground(door.listener, stack, DoorGate)
        ground._address = str(door.path)
        stack.callback(ground.gate.close)
        yield ground


@pytest.fixture
def generous(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS_AT_ONCE", 1000.0)
    monkeypatch.setattr(module, "CONNECTIONS_PER_SECOND", 1000.0)


def is_accepted(ground: Ground) -> bool:
    """Whether gunicorn gets the request of a new client."""
    ground.client(REQUEST)
    if not readable(ground.gate, 0.1):
        return False
    ground.accepted().close()
    return True


def test_a_connection_has_the_uid_of_its_process(ground: Ground) -> None:
    ground.client(REQUEST)
    assert ground.accepted().session_uid == os.getuid()


def test_a_uid_has_a_few_connections_at_once(ground: Ground, generous: None) -> None:
    clients = [ground.client(REQUEST) for _ in range(MOST_CONNECTIONS)]
    accepted = [ground.accepted() for _ in clients]
    assert b"429" in received(ground.client())
    accepted[0].close()
    clients[0].close()
    eventually(lambda: is_accepted(ground))


def test_connections_that_close_at_once_are_limited_as_well(
    ground: Ground, generous: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each costs the gate some work, and the gate's thread shares a lock with those of the API."""
    monkeypatch.setattr(module, "CONNECTIONS_PER_SECOND", 0.0)
    monkeypatch.setattr(module, "CONNECTIONS_IN_A_ROW", 5.0)
    for _ in range(5):
        ground.client().close()
    assert b"429" in received(ground.client())
    monkeypatch.setattr(module, "CONNECTIONS_PER_SECOND", 1e6)
    eventually(lambda: is_accepted(ground))


def test_connections_that_ask_nothing_are_given_up_and_make_room(ground: Ground, generous: None) -> None:
    silent = [ground.client() for _ in range(MOST_CONNECTIONS)]
    assert b"408" in received(silent[0])
    eventually(lambda: is_accepted(ground))


def test_a_uid_may_ask_once_a_second(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS_PER_SECOND", 0.0)
    answers = 0
    for _ in range(round(REQUESTS_AT_ONCE) + 3):
        client = ground.client(REQUEST)
        if readable(ground.gate, 0.1):
            ground.accepted().close()
            answers += 1
        else:
            assert b"429 Too Many Requests" in received(client)
        client.close()
    assert answers == REQUESTS_AT_ONCE
    monkeypatch.setattr(module, "REQUESTS_PER_SECOND", 1e6)
    assert is_accepted(ground)


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (LARGEST_BODY + 1),
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n7ff\r\n" + b"a" * 0x7FF + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000,
        b"\0\1\2\r\n\r\n",
    ],
)
def test_what_is_too_large_or_no_http_never_reaches_the_application(ground: Ground, request_: bytes) -> None:
    client = ground.client(request_)
    assert b"413" in received(client)
    assert not readable(ground.gate, 0.05)


def test_the_largest_body_passes(ground: Ground) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % LARGEST_BODY
    ground.client(head + b"a" * LARGEST_BODY)
    assert ground.accepted().recv(8192).endswith(b"a" * LARGEST_BODY)


def test_only_root_enters_the_directory_and_every_uid_may_connect(short_path: Path) -> None:
    door = Door(short_path)
    assert stat.S_IMODE(door.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(door.path.stat().st_mode) == 0o666
    door.listener.close()


def test_a_dead_gateway_s_socket_is_removed_and_a_live_one_s_stays(short_path: Path) -> None:
    live = Door(short_path)
    dead, alive = live.path.with_name("1.sock"), live.path.with_name("2.sock")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(dead))
    os.link(live.path, alive)
    again = Door(short_path)
    assert not dead.exists()
    assert alive.exists()
    again.remove()
    assert not again.path.exists()
    live.listener.close()
    again.listener.close()


def test_a_long_state_directory_is_no_obstacle(tmp_path: Path) -> None:
    long = tmp_path / ("a" * 120)
    door = Door(long)
    assert stat.S_ISSOCK(door.path.stat().st_mode)
    door.listener.close()


def test_a_state_directory_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartRefused, match=r"The socket .* cannot be made"):
        Door(tmp_path / "file")
