"""One client's connection: its login, its way upstream, and its end.

The upstream is opened once the client has proved its key, never while a key is only asked about.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import asyncssh

from gateway.router.limits import Limits
from gateway.router.relay import Relay
from gateway.router.route import Route, Upstream
from gateway.router.routes import Routes

log = logging.getLogger(__name__)

UPSTREAM_SECONDS = 10
MAX_TRIES = 16  # an agent with many keys is refused by sshd after six

_UPSTREAM_OPTIONS: dict[str, Any] = {
    "config": None,
    "agent_path": None,
    "client_host_keysign": False,
    "preferred_auth": "publickey",
    "gss_host": None,
    "compression_algs": None,
    "encryption_algs": "^aes128-gcm@openssh.com",  # a processor's own instructions do it
    "keepalive_interval": 0,  # the answers would mix with the client's
    "client_version": "OpenSSH_9.9 GpuSshGateway",
}

_UNREACHABLE = "the session is not reachable; it may be starting or ending"
_WRONG_HOST = "the session's host key is not the one it was started with; ask the administrator"
_ENDED = "the session has ended"


class Login(asyncssh.SSHServer):
    """`alive` holds every login while its connection lasts."""

    def __init__(self, routes: Routes, limits: Limits, alive: set["Login"]) -> None:
        self._routes = routes
        self._limits = limits
        self._alive = alive
        self._address = ""
        self._username = ""
        self._key = b""
        self._route: Route | None = None
        self._upstream: Upstream | None = None
        self._far_end: _FarEnd | None = None
        self._opening: asyncio.Task[None] | None = None
        self._tries = 0
        self._reason = ""

    # What the library calls.

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._relay = Relay(conn, self._failed_try)
        self._address = conn.get_extra_info("peername", ("?",))[0]
        self._alive.add(self)
        if not self._limits.arrived(self._address):
            self._log("login refused", reason="too many connections")
            conn.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._alive.discard(self)
        self._limits.left(self._address, was_admitted=self._opening is not None)
        if self._opening:
            self._opening.cancel()
        if self._far_end:
            self._far_end.relay.close("the client has gone")
        if self._upstream:
            self._log("connection closed", reason=self._reason or str(exc or "") or "by the client")
        elif self._username and not self._reason:
            self._log("login refused", reason=f"no key fits, {self._tries} tries")

    def begin_auth(self, username: str) -> bool:
        self._username = username
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Asked before the client signs and again when it has; what was asked last is what got in."""
        self._username, self._key, self._route = username, key.public_data, self._routes.find(username)
        return self._route is not None and _admits(self._route, username, self._key)

    def auth_completed(self) -> None:
        self._limits.admitted(self._address)
        self._opening = asyncio.get_running_loop().create_task(self._open())

    # The way upstream.

    async def _open(self) -> None:
        assert self._route is not None  # validate_public_key said yes
        try:
            self._upstream = self._route.upstream(self._username)
            async with asyncio.timeout(UPSTREAM_SECONDS):
                self._far_end = await _connect(self._upstream, self._far_end_lost)
        except asyncssh.HostKeyNotVerifiable:
            self._refuse(_WRONG_HOST)
        except (OSError, TimeoutError, ValueError, asyncssh.Error) as error:
            self._refuse(_UNREACHABLE, str(error) or type(error).__name__)
        else:
            self._relay.join(self._far_end.relay)
            self._log("login accepted")

    def _refuse(self, reason: str, cause: str = "") -> None:
        self._upstream = None
        self._end(reason)
        self._log("login refused", reason=f"{reason}: {cause}" if cause else reason)

    def _far_end_lost(self, reason: str) -> None:
        if self._far_end:  # until then `_open` learns it from the library
            self._end(reason)

    # Its end.

    def still_routed(self) -> bool:
        """Whether the client would get to the same place if it came now."""
        if self._upstream is None:
            return True
        route = self._routes.find(self._username)
        if route is None or not _admits(route, self._username, self._key):
            return False
        return _upstream(route, self._username) == self._upstream

    def cut(self, reason: str) -> None:
        self._end(reason)
        if self._far_end:
            self._far_end.relay.close(reason)

    def _end(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._relay.close(reason)

    def _failed_try(self) -> None:
        self._tries += 1
        if self._tries > MAX_TRIES:
            self._relay.close("Too many authentication failures", asyncssh.DISC_PROTOCOL_ERROR)

    def _log(self, what: str, **more: str) -> None:
        session_id = self._route.session_id if self._route else None
        facts = {"user_id": self._username, "address": self._address, "session_id": session_id or None}
        log.info(what, extra={**facts, **more})


class _FarEnd(asyncssh.SSHClient):
    """The router as the client of the upstream's sshd."""

    def __init__(self, lost: Callable[[str], None]) -> None:
        self._lost = lost
        self.is_lost = False

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        self.relay = Relay(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        told = isinstance(exc, asyncssh.DisconnectError) and not isinstance(exc, asyncssh.ConnectionLost)
        self._lost(str(exc) if told else _ENDED)


async def _connect(upstream: Upstream, lost: Callable[[str], None]) -> _FarEnd:
    far_end = _FarEnd(lost)
    await asyncssh.connect(
        upstream.host,
        upstream.port,
        username=upstream.username,
        client_keys=[asyncssh.import_private_key(upstream.private_key)],
        known_hosts=upstream.known_hosts,
        client_factory=lambda: far_end,
        **_UPSTREAM_OPTIONS,
    )
    if far_end.is_lost:
        raise asyncssh.ConnectionLost("the connection was lost at once")
    return far_end


def _admits(route: Route, username: str, key: bytes) -> bool:
    try:
        return route.admits(username, key)
    except (OSError, ValueError) as error:
        log.warning("a pipe is not served", extra={"user_id": username, "error": str(error)})
        return False


def _upstream(route: Route, username: str) -> Upstream | None:
    try:
        return route.upstream(username)
    except (OSError, ValueError):
        return None
