"""The router's process: its listeners, its watch over the pipe file and its end."""

import asyncio
import logging
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh

from gateway.errors import StartRefused
from gateway.router import host_key as host_keys
from gateway.router.limits import Limits
from gateway.router.login import Login
from gateway.router.routes import Routes

log = logging.getLogger(__name__)

BACKLOG = 1024
LOGIN_SECONDS = 30
WATCH_SECONDS = 0.5
DRAIN_SECONDS = 60  # less than what stops the router waits before it kills

_WITHDRAWN = "the way into the session was taken away"
_STOPPING = "the gateway is stopping; connect again in a moment"

_FIRST_PASSED_SOCKET = 3  # sd_listen_fds(3)

_OPTIONS: dict[str, Any] = {
    "config": None,
    "password_auth": False,
    "kbdint_auth": False,
    "host_based_auth": False,
    "gss_host": None,
    "compression_algs": None,
    "keepalive_interval": 0,  # the answers would mix with the upstream's
    "login_timeout": LOGIN_SECONDS,
    "server_version": "OpenSSH_9.9 GpuSshGateway",
    "backlog": BACKLOG,
}


def serve(piper_config: Path, listen: list[tuple[str, int]], host_key: Path) -> None:
    """Until SIGTERM: that ends the listening, and the process when the last connection has ended, after
    `DRAIN_SECONDS` or at the second SIGTERM."""
    key = host_keys.load_or_make(host_key)
    sockets = _passed_sockets() or [_bound(host, port) for host, port in listen]
    asyncio.run(_Router(piper_config, key).run(sockets))


class _Router:
    def __init__(self, piper_config: Path, key: asyncssh.SSHKey) -> None:
        self._routes = Routes(piper_config)
        self._key = key
        self._limits = Limits()
        self._logins: set[Login] = set()
        self._stop, self._stop_now = asyncio.Event(), asyncio.Event()

    async def run(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped)
        self._routes.refresh()
        listeners = [await self._listen(each) for each in sockets]
        watch = loop.create_task(self._watch())
        await self._stop.wait()
        for listener in listeners:
            listener.close()
        await self._drain()
        watch.cancel()

    async def _listen(self, bound: socket.socket) -> asyncssh.SSHAcceptor:
        host, port = bound.getsockname()[:2]
        log.info("listening", extra={"address": f"[{host}]:{port}" if ":" in host else f"{host}:{port}"})
        return await asyncssh.listen(
            sock=bound, server_factory=self._login, server_host_keys=[self._key], **_OPTIONS
        )

    def _login(self) -> Login:
        return Login(self._routes, self._limits, self._logins)

    async def _watch(self) -> None:
        """End the connections whose pipe or key has gone. While the file cannot be read, that is unknown."""
        seen = self._routes.version
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            self._routes.refresh()
            if self._routes.readable and self._routes.version != seen:
                seen = self._routes.version
                for login in [login for login in self._logins if not login.still_routed()]:
                    login.cut(_WITHDRAWN)

    def _stopped(self) -> None:
        (self._stop_now if self._stop.is_set() else self._stop).set()

    async def _drain(self) -> None:
        """Wait for the connections that go on."""
        log.info("stopping: no longer listening", extra={"connections": len(self._logins)})
        deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
        while self._logins and asyncio.get_running_loop().time() < deadline and not self._stop_now.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop_now.wait(), timeout=0.1)
        for login in list(self._logins):
            login.cut(_STOPPING)
        log.info("stopped")


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        # create_server wraps the system's words in its own, a failed look-up has no errno.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise StartRefused(f"The router cannot listen on {host}:{port}: {reason}.") from error


def _passed_sockets() -> list[socket.socket]:
    """Those that systemd opened, if it did: they survive a restart."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return [socket.socket(fileno=_FIRST_PASSED_SOCKET + number) for number in range(count)]
