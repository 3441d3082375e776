"""The way from a login to its session's sshd, and the words for what can go wrong on it."""

import asyncio
import errno
import socket
from collections.abc import Callable

from gateway.router.route import Upstream
from gateway.router.ssh import keys
from gateway.router.ssh.authentication import ClientAuthentication, KeyRefused
from gateway.router.ssh.handshake import ClientHandshake, HostKeyMismatch
from gateway.router.ssh.known_hosts import KnownHost
from gateway.router.ssh.transport import Closed, Transport
from gateway.router.ssh.wire import SshError

CONNECT_SECONDS = 10
_PROBE_SECONDS = 1
_SECOND_PROBE_SECONDS = 0.5

ENDED = "the session has ended"
FULL = "the gateway has no capacity for another connection; try again later"
_DAMAGED = "the route to the session is damaged; ask the administrator"
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EAGAIN}
_NOT_THERE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EADDRNOTAVAIL}


class UpstreamConnection:
    """The router as a client of a session's sshd. `ended` is called once it was joined and is over."""

    def __init__(self, upstream: Upstream, ended: Callable[[SshError], None]) -> None:
        """Raises ValueError for a key or known hosts that cannot be used."""
        known = KnownHost.find(upstream.known_hosts.decode(errors="replace"), upstream.host, upstream.port)
        if not known.trusted:
            raise ValueError("its known_hosts name no key for its host")
        key = keys.load_private_key(upstream.private_key)
        self.upstream = upstream
        self.transport = Transport(lambda transport: ClientHandshake(transport, known), self)
        self._authentication = ClientAuthentication(self.transport, upstream.username, key, self._ready)
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._join: Callable[[], None] = lambda: None
        self._ended = ended

    async def open(self, join: Callable[[], None]) -> None:
        """Connect and log in; call `join` before the first packet of the session is handled.

        Raises OSError, TimeoutError or SshError.
        """
        self._join = join
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_SECONDS):
            await loop.create_connection(lambda: self.transport, self.upstream.host, self.upstream.port)
            await self._opened

    def close(self, reason: str) -> None:
        self._opened.cancel()  # nobody waits for it any more
        self.transport.close(SshError(reason))

    # What the transport calls.

    def secured(self) -> None:
        self._authentication.begin()

    def packet(self, payload: bytes) -> bool:
        return self._authentication.packet(payload)

    def _ready(self) -> None:
        self._join()
        if not self._opened.done():
            self._opened.set_result(None)

    def ended(self, error: SshError) -> None:
        if not self._opened.done():
            self._opened.set_exception(self._greeted(error))
        elif not self._opened.cancelled():
            self._ended(error)

    def gone(self) -> None:
        pass

    def _greeted(self, error: SshError) -> SshError:
        """What sshd says in place of its version, such as "Exceeded MaxStartups"."""
        greeting = self.transport.identification.greeting
        return Closed(greeting) if greeting and isinstance(error, Closed) else error


def explanation(error: Exception) -> str:
    """Why a login could not go on, in words for its user that are true in each case."""
    if isinstance(error, TimeoutError):
        return "the session does not answer in time; it may be overloaded"
    if isinstance(error, HostKeyMismatch):
        return "the session's host key is not the one it was started with; ask the administrator"
    if isinstance(error, KeyRefused):
        return "the session does not accept the gateway's key; ask the administrator"
    if isinstance(error, Closed):
        detail = f" ({error.detail})" if error.detail else ""
        return f"the session closed the connection at once{detail}; it may be ending, or out of processes"
    if isinstance(error, SshError):
        return f"the session's sshd does not go on: {error}"
    if isinstance(error, OSError):
        return _explanation_of_os_error(error)
    return _DAMAGED


def _explanation_of_os_error(error: OSError) -> str:
    if error.errno in _NO_ROOM:
        return FULL
    if isinstance(error, ConnectionRefusedError):
        return "the session is not reachable; it may be starting or ending"
    if error.errno in _NOT_THERE:
        return "the session is not on the network; it has ended, or it is starting"
    if isinstance(error, socket.gaierror | FileNotFoundError):
        return _DAMAGED
    return f"the session is not reachable: {error.strerror or error}"


async def explanation_of_the_end(upstream: Upstream) -> str:
    """Say why a connection to a session's sshd ended: connect again, and see whether the sshd still answers.

    While an sshd is being killed, the kernel still accepts connections for it, but nothing greets. An sshd
    that has no processes left does not greet either, but its port stays open. A second connection tells the
    two apart.
    """
    for pause in (0.0, _SECOND_PROBE_SECONDS):
        await asyncio.sleep(pause)
        try:
            if await _greets(upstream):
                break
        except (OSError, TimeoutError):
            return ENDED
    return "the session closed the connection"


async def _greets(upstream: Upstream) -> bool:
    """Whether an sshd sends its version. Raises OSError or TimeoutError if nothing accepts the connection."""
    async with asyncio.timeout(_PROBE_SECONDS):
        reader, writer = await asyncio.open_connection(upstream.host, upstream.port)
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            return await reader.read(4) == b"SSH-"
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
