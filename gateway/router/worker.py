"""A worker process: it speaks SSH on the connections that the supervisor passes to it."""

import asyncio
import math
import signal
import socket
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gateway.domain.notice import Notice
from gateway.router import notices
from gateway.router.channel import Channel, Message
from gateway.router.ledger import Ledger
from gateway.router.login import Login
from gateway.router.reports import Reports
from gateway.router.route import Route
from gateway.router.routes import Routes
from gateway.router.ssh.keys import PrivateKey

WATCH_SECONDS = 0.5
_RETRY_SECONDS = 0.01
RESTARTED = "the gateway has restarted; connect again"


def work(
    channel: Channel, piper_config: Path, host_keys: Mapping[str, PrivateKey], lobby_keys: Collection[bytes]
) -> None:
    """Serve until the supervisor stops the worker or is gone, and the last connection has ended."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the supervisor decides when a worker stops
    asyncio.run(Worker(channel, piper_config, host_keys, lobby_keys).run())


class Worker:
    """What its logins need of a process. In a lobby, `lobby_keys` open every route and every notice, and no
    other key opens any."""

    def __init__(
        self,
        channel: Channel,
        piper_config: Path,
        host_keys: Mapping[str, PrivateKey],
        lobby_keys: Collection[bytes] = (),
    ) -> None:
        self._lobby_keys = lobby_keys
        self.is_lobby = bool(lobby_keys)
        self.host_keys = host_keys
        self._channel = channel
        self._piper_config = piper_config
        self._routes = Routes(piper_config, report=_ignore)
        self._logins: dict[int, Login] = {}
        self._verdicts: dict[int, asyncio.Future[str | None]] = {}
        self._is_stopping = asyncio.Event()
        self._is_alone = False  # the supervisor has ended
        self._ledger = Ledger(Reports(piper_config.parent))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel, self._receive)
        watch = loop.create_task(self._watch())
        await self._is_stopping.wait()
        while self._logins:
            await asyncio.sleep(WATCH_SECONDS / 10)
        watch.cancel()
        self._ledger.reports.send(math.inf)

    # What logins call.

    @property
    def knows_routes(self) -> bool:
        return self._routes.readable

    def find(self, user: str) -> Route | None:
        return self._routes.find(user)

    def admits(self, route: Route, user: str, key: bytes) -> bool:
        if self._lobby_keys:
            return key in self._lobby_keys
        try:
            return route.admits(user, key)
        except (OSError, ValueError) as error:
            self._send({"event": "fault", "user_id": user, "error": str(error)})
            return False

    def notice(self, user: str) -> Notice | None:
        try:
            return notices.find(self._piper_config, user)
        except (OSError, ValueError) as error:
            self._send({"event": "fault", "user_id": user, "error": str(error)})
            return None

    def may_read(self, notice: Notice, key: bytes) -> bool:
        return key in self._lobby_keys if self._lobby_keys else notice.admits(key)

    async def log_in(self, number: int, user: str, held: bool = False) -> str | None:
        verdict: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._verdicts[number] = verdict
        try:
            self._send({"event": "login", "number": number, "user_id": user, "held": held})
            return RESTARTED if self._is_alone else await verdict
        finally:
            del self._verdicts[number]

    def release(self, number: int) -> None:
        self._send({"event": "released", "number": number})

    def report(self, number: int, event: str, **facts: Any) -> None:
        self._send({"event": event, "number": number, **facts})

    def gone(self, login: Login) -> None:
        del self._logins[login.number]
        self._send({"event": "gone", "number": login.number})
        self._ledger.left(login.number)

    # The supervisor.

    def _receive(self) -> None:
        try:
            while (received := self._channel.receive()) is not None:
                self._handle(*received)
        except EOFError:
            asyncio.get_running_loop().remove_reader(self._channel)
            self._supervisor_ended()
            self._is_stopping.set()

    def _supervisor_ended(self) -> None:
        """No login can be counted any more: those that wait for it are refused."""
        self._is_alone = True
        for verdict in self._verdicts.values():
            if not verdict.done():
                verdict.set_result(RESTARTED)

    def _handle(self, message: Message, connection: socket.socket | None) -> None:
        command, number = message["command"], message.get("number", 0)
        if connection is not None:
            self._take(number, connection)
            self._ledger.arrived(number, message["address"])
        elif command == "verdict" and number in self._verdicts:
            if not self._verdicts[number].done():  # cancelled: the client has just left
                self._verdicts[number].set_result(message["refusal"])
        elif command == "end" and number in self._logins:
            self._logins[number].end(message["reason"])
        elif command == "end all":
            for login in list(self._logins.values()):
                login.end(message["reason"])
        elif command == "stop":
            self._is_stopping.set()

    def _take(self, number: int, connection: socket.socket) -> None:
        connection.setblocking(False)
        login = self._logins[number] = Login(self, number)
        login.start(connection)

    def _send(self, message: Message) -> None:
        """Report to the supervisor; after its end, write the log line and the report to the gateway here."""
        now = time.monotonic()
        self._ledger.learn(message, now)
        if not self._is_alone:
            try:
                self._channel.send(message)
            except OSError:
                self._supervisor_ended()
        if self._is_alone:
            self._account(message, now)
        elif self._channel.has_unsent:
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._channel.send_unsent)

    def _account(self, message: Message, now: float) -> None:
        if message["event"] not in ("login", "released", "gone"):
            self._ledger.write(message, now)
            self._ledger.reports.send(now)

    async def _watch(self) -> None:
        """End the connections whose pipe or key has gone. While the file is unreadable, that is unknown."""
        seen = self._routes.version
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._logins:
                self._routes.refresh()
            if self.knows_routes and self._routes.version != seen:
                seen = self._routes.version
                for login in list(self._logins.values()):
                    if reason := login.lost_route():
                        login.end(reason)


def _ignore(*_arguments: object, **_options: object) -> None:
    """Faults of the pipe file are reported once, by the supervisor."""
