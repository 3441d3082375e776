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


class DoorGate(Gate):
    """A gate whose clients are identified by the uid of their process."""

    def __init__(self, listener: Any, is_open: Callable[[], bool]) -> None:
        super().__init__(listener, is_open)
        self._clients: defaultdict[int, set[Client]] = defaultdict(set)
        self._budgets: dict[int, tuple[float, float]] = {}  # requests, and when it was so many

    def _admit(self, accepted: socket.socket, peer: Any) -> Client | None:
        credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        client = Client(accepted, peer, uid)
        if len(self._clients[uid]) >= MOST_CONNECTIONS:
            self._respond_and_close(client, _TOO_MANY_CONNECTIONS)
            self._pause()
            return None
        self._clients[uid].add(client)
        client.arrival = self._new_arrival()
        return client

    def _new_arrival(self) -> Arrival:
        return Arrival(LARGEST_HEAD, LARGEST_BODY)

    def _refusal(self, client: Client, progress: Progress) -> bytes | None:
        if progress is Progress.REFUSED:
            return _TOO_LARGE
        assert client.session_uid is not None
        return None if self._may_ask(client.session_uid, time.monotonic()) else _TOO_MANY_REQUESTS

    def _may_ask(self, uid: int, now: float) -> bool:
        requests, since = self._budgets.get(uid, (REQUESTS_AT_ONCE, now))
        requests = min(REQUESTS_AT_ONCE, requests + (now - since) * REQUESTS_PER_SECOND)
        may = requests >= 1
        self._budgets[uid] = (requests - may, now)
        return may

    def _left(self, client: Client) -> None:
        assert client.session_uid is not None
        self._clients[client.session_uid].discard(client)


_TOO_MANY_CONNECTIONS = problem(
    429,
    "too-many-requests",
    "Too Many Requests",
    f"A session has at most {MOST_CONNECTIONS} connections to the gateway: try again in a moment.",
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
