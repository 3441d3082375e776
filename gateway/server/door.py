"""The door: a unix socket that every session sees as /etc/gateway/door.sock, and the gate behind it.

The kernel reports which uid has connected. Connections, requests and bodies are limited for each uid, so that
no session keeps others from the API.
"""

import os
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.errors import StartRefused
from gateway.server.arrival import Arrival, Progress
from gateway.server.gate import Client, Gate, problem

MOST_CONNECTIONS = 4  # of one uid
REQUESTS_PER_SECOND, REQUESTS_AT_ONCE = 1.0, 4.0  # of one uid
CONNECTIONS_PER_SECOND, CONNECTIONS_IN_A_ROW = 10.0, 20.0  # of one uid, also if they close at once
LARGEST_HEAD, LARGEST_BODY = 8192, 1024  # bytes
_BACKLOG = 64
_MODE = 0o666  # the directories above decide who reaches the socket
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


class Door:
    """The listening socket of one gateway process. `path` is in a directory that only root can enter; each
    session has a hard link of its own."""

    def __init__(self, state_dir: Path) -> None:
        """Raises `StartRefused`."""
        self._directory = state_dir / "door"
        self.path = self._directory / f"{os.getpid()}.sock"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._remove_dead()
            self.listener = self._listening()
        except OSError as error:
            raise StartRefused(f"The socket {self.path} cannot be made: {error.strerror}.") from error

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _listening(self) -> socket.socket:
        """The socket gets its name when it listens. Through the descriptor the path is short enough for every
        state directory: a socket's address has at most 107 bytes."""
        listener, draft = socket.socket(socket.AF_UNIX), self.path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            listener.bind(f"/proc/self/fd/{directory}/{draft.name}")
        finally:
            os.close(directory)
        draft.chmod(_MODE)
        listener.listen(_BACKLOG)
        draft.rename(self.path)
        return listener

    def _remove_dead(self) -> None:
        """Remove the sockets of gateways that were killed."""
        for path in self._directory.glob("*.sock"):
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            with socket.socket(socket.AF_UNIX) as attempt, suppress(BlockingIOError):
                attempt.setblocking(False)
                try:
                    attempt.connect(f"/proc/self/fd/{directory}/{path.name}")
                except ConnectionRefusedError:
                    path.unlink(missing_ok=True)
                finally:
                    os.close(directory)


class _Budgets:
    """What each uid may still do at once. It grows with time up to a limit."""

    def __init__(self) -> None:
        self._left: dict[int, tuple[float, float]] = {}  # how much, and when it was so much

    def spend(self, uid: int, now: float, per_second: float, at_most: float) -> bool:
        """Take one from the budget of `uid`. Return False, and take nothing, if it is used up."""
        left, since = self._left.get(uid, (at_most, now))
        left = min(at_most, left + (now - since) * per_second)
        may = left >= 1
        self._left[uid] = (left - may, now)
        return may


class DoorGate(Gate):
    """A gate whose clients are identified by the uid of their process."""

    def __init__(self, listener: Any, is_open: Callable[[], bool]) -> None:
        super().__init__(listener, is_open)
        self._clients: defaultdict[int, set[Client]] = defaultdict(set)
        self._requests = _Budgets()
        self._arrivals = _Budgets()

    def _admit(self, accepted: socket.socket, peer: Any) -> Client | None:
        credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        client, now = Client(accepted, peer, uid), time.monotonic()
        may_come = self._arrivals.spend(uid, now, CONNECTIONS_PER_SECOND, CONNECTIONS_IN_A_ROW)
        if not may_come or len(self._clients[uid]) >= MOST_CONNECTIONS:
            self._respond_and_close(client, _TOO_MANY_CONNECTIONS)
            self._pause()
            return None
        self._clients[uid].add(client)
        client.arrival = self._new_arrival()
        return client

    def _new_arrival(self) -> Arrival:
        return Arrival(LARGEST_HEAD, LARGEST_BODY)

    def _refusal(self, client: Client, progress: Progress) -> bytes | None:
        if progress is not Progress.COMPLETE:
            return _TOO_LARGE
        assert client.session_uid is not None
        now = time.monotonic()
        may_ask = self._requests.spend(client.session_uid, now, REQUESTS_PER_SECOND, REQUESTS_AT_ONCE)
        return None if may_ask else _TOO_MANY_REQUESTS

    def _left(self, client: Client) -> None:
        assert client.session_uid is not None
        self._clients[client.session_uid].discard(client)


_TOO_MANY_CONNECTIONS = problem(
    429,
    "too-many-requests",
    "Too Many Requests",
    f"A session has at most {MOST_CONNECTIONS} connections to the gateway, and makes at most "
    f"{CONNECTIONS_PER_SECOND:g} a second: try again in a moment.",
)
_TOO_MANY_REQUESTS = problem(
    429, "too-many-requests", "Too Many Requests", "A session may ask once a second: try again in a moment."
)
_TOO_LARGE = problem(
    413,
    "too-large",
    "Content Too Large",
    f"The request is not HTTP, or larger than {LARGEST_BODY} bytes.",
)
