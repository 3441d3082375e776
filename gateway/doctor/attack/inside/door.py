"""Attempts at the door by which a session calls the gateway: a socket, or on a cluster a URL with a token."""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable

_SOCKET, _URL = "/etc/gateway/door.sock", "/etc/gateway/door"
_TIMEOUT = 3.0
_FORGED_TOKEN = "Authorization: Bearer gw_" + "A" * 43
_FORGED = (
    "X-Session-Uid: 0",
    "Session-Uid: 0",
    "X-Forwarded-For: 127.0.0.1",
    "X-Remote-User: root",
)


def ask_for_another(sessions: list[str]) -> str:
    """Read, extend and end another user's session."""
    for session in sessions:
        path = f"/sessions/{session}"
        for method, what, body in (
            ("GET", path, None),
            ("POST", f"{path}/extend", {"minutes": 1}),
            ("DELETE", path, None),
        ):
            if (status := _status(method, what, body)) < 400:
                return f"{method} {what} answers {status}"
        if (token := _url_and_token()[1]) and _as_session(session, token) < 400:
            return f"a forged token of the session {session} is accepted"
    raise PermissionError("another user's session does not exist here")


def take_more_rights() -> str:
    """Act as an operator, with headers that claim to be one."""
    acts = (
        ("GET", "/events", None),
        ("GET", "/users/root/keys", None),
        ("PUT", "/gpus/0/cordon", {"reason": "attack"}),
        ("POST", "/sessions", {"user_id": "doctor-other"}),
    )
    for method, path, body in acts:
        if (status := _status(method, path, body)) < 400:
            return f"{method} {path} answers {status}"
    raise PermissionError("the door gives rights over the caller's own session only")


def replace_door() -> str:
    """Take the door away, open it to more, or put another one in its place."""
    failures: list[OSError] = []
    door = _URL if _url_and_token()[0] else _SOCKET
    acts: dict[str, Callable[[], None]] = {
        "removed": lambda: os.unlink(door),
        "moved": lambda: os.rename(door, door + ".old"),
        "changed": lambda: os.chmod(door, 0o777),
        "replaced": lambda: socket.socket(socket.AF_UNIX).bind("/etc/gateway/other.sock"),
        "linked": lambda: os.link(door, os.path.expanduser("~/door.sock")),
    }
    for what, act in acts.items():
        try:
            act()
        except OSError as error:
            failures.append(error)
        else:
            return f"the door can be {what}"
    raise failures[0]


def hammer(most: int, burst: int) -> str:
    """Ask very often, with silent connections and large bodies beside it. `burst` requests are allowed."""
    held: list[socket.socket] = []
    with contextlib.suppress(OSError):
        while len(held) < most:
            held.append(_connected())
    for connection in held:
        connection.close()
    large = {"minutes": 1, "x": "a" * 100000}
    if (status := _ask("POST", "/sessions/any/extend", large)) not in (0, 413, 429):
        return f"a body of 100 kB answers {status}"
    began, answered = time.monotonic(), 0
    for _ in range(most):
        answered += 0 < _ask("GET", "/sessions", None) < 400
    seconds = time.monotonic() - began
    if answered > burst + 2 * seconds:
        return f"{answered} requests within {seconds:.1f} s"
    raise OSError(errno.EAGAIN, f"{answered} of {most} requests were answered in {seconds:.1f} s")


def _connected() -> socket.socket:
    if url := _url_and_token()[0]:
        host, _, port = url.partition("://")[2].rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_TIMEOUT)
    connection.connect(_SOCKET)
    return connection


def _url_and_token() -> tuple[str, str]:
    """Return where a session of a cluster calls the gateway, and its token; "" for those with a socket."""
    lines: list[str] = []
    with contextlib.suppress(OSError), open(_URL) as file:
        lines = file.read().split()
    if not lines and not os.path.exists(_SOCKET):
        raise NotImplementedError("this session has no door")
    return (lines[0], lines[1]) if lines else ("", "")


def _as_session(session: str, token: str) -> int:
    """As `_status`, with the other session's id in the own token."""
    return _status("GET", f"/sessions/{session}", None, f"session-{session}.{token.rpartition('.')[2]}")


def _status(method: str, path: str, body: object, token: str = "") -> int:
    """As `_ask`, but wait where the session may ask only later."""
    for _ in range(6):
        status = _ask(method, path, body, token)
        if status != 429:
            return status
        time.sleep(1.2)
    raise NotImplementedError("the door did not answer in time")


def _ask(method: str, path: str, body: object, token: str = "") -> int:
    """Return the status of the response; 0 if the gateway closes the connection without one. `token` takes
    the place of the session's own, where it has one."""
    data = b"" if body is None else json.dumps(body).encode()
    token = token or _url_and_token()[1]
    claims = [f"Authorization: Bearer {token}", *_FORGED] if token else [_FORGED_TOKEN, *_FORGED]
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(data)}", "Connection: close", *claims, "", ""]
    with _connected() as connection:
        with contextlib.suppress(OSError):  # the response may have been sent before the end of the request
            connection.sendall("\r\n".join(lines).encode() + data)
        line: list[bytes] = []
        with contextlib.suppress(OSError):
            line = connection.recv(4096).split(b"\r\n")[0].split()
    return int(line[1]) if len(line) > 1 else 0
