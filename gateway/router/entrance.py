"""Where connections arrive: each is counted, refused with the reason, or passed to a worker."""

import itertools
import logging
import socket
from collections import deque
from contextlib import suppress
from typing import Any

from gateway.router.channel import Message
from gateway.router.ledger import Ledger
from gateway.router.limits import Limits
from gateway.router.metrics import Counts
from gateway.router.pool import Pool, Process
from gateway.router.ssh import identification, wire
from gateway.router.upstream import FULL

log = logging.getLogger(__name__)

_ACCEPTED_AT_ONCE = 32
_RESERVED_DESCRIPTORS = 32  # of a worker, for all that is no connection
_MOST_LINGERING, _LINGER_SECONDS = 64, 1.0

_CROWDED_OUT = "too many connections have not logged in; try again in a moment"


class Entrance:
    """`most_descriptors` is what one worker may have open."""

    def __init__(
        self, pool: Pool, limits: Limits, ledger: Ledger, most_descriptors: int, counts: Counts
    ) -> None:
        self._pool = pool
        self._limits = limits
        self._ledger = ledger
        self._counts = counts
        self._most_sockets = most_descriptors - _RESERVED_DESCRIPTORS
        self._numbers = itertools.count(1)
        self._lingering: deque[tuple[float, socket.socket]] = deque()

    @property
    def connections(self) -> int:
        return self._ledger.connections

    def accept(self, listener: socket.socket, now: float) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                log.error("a connection cannot be accepted", extra={"error": error.strerror})
                self.close_lingering(now, all=True)
                return
            self._arrived(connection, address[0], now)

    def handle(self, process: Process, message: Message, now: float) -> None:
        """What a worker reports."""
        event, number = message["event"], message.get("number", 0)
        if event == "login":
            refusal = self._refusal_of_login(process, number, message["user_id"], message["held"], now)
            process.send({"command": "verdict", "number": number, "refusal": refusal})
        elif event == "released":
            self._limits.release(number)
        elif event == "gone":
            self._left(process, number)
        else:
            if event == "refused":
                self._limits.failed(number, message["points"], now)
            self._counts.note(event)
            self._ledger.write(message, now)

    def lost(self, process: Process, now: float) -> None:
        """A worker is gone, and its connections with it."""
        for number in list(process.connections):
            self._ledger.lost(number, now)
            self._left(process, number)

    def close_lingering(self, now: float, all: bool = False) -> None:
        """Close refused connections that had time to read why."""
        while self._lingering and (all or self._lingering[0][0] <= now):
            self._lingering.popleft()[1].close()

    def _arrived(self, connection: socket.socket, address: str, now: float) -> None:
        with connection:
            process = self._pool.least_loaded()
            refusal = self._limits.refusal(address, now)
            if process is None or process.descriptors >= self._most_sockets:
                refusal = FULL
            number = next(self._numbers)
            message = {"command": "take", "number": number, "address": address}
            if refusal or process is None or not process.channel.pass_on(message, connection):
                self._turn_away(connection.dup(), address, refusal or FULL, now)
                return
        process.connections.add(number)
        self._ledger.arrived(number, address)
        self._drop(self._limits.arrived(number, address, now))

    def _drop(self, number: int | None) -> None:
        for process in self._pool.processes:
            if number in process.connections:
                process.send({"command": "end", "number": number, "reason": _CROWDED_OUT})

    def _refusal_of_login(
        self, process: Process, number: int, user: str, held: bool, now: float
    ) -> str | None:
        if number not in process.connections:
            return FULL
        if process.descriptors >= self._most_sockets:
            return FULL
        refusal = self._limits.log_in(number, user, now, held)
        if refusal is None:
            process.logins.add(number)
        return refusal

    def _left(self, process: Process, number: int) -> None:
        process.connections.discard(number)
        process.logins.discard(number)
        self._limits.left(number)
        self._ledger.left(number)

    def _turn_away(self, connection: socket.socket, address: str, reason: str, now: float) -> None:
        self._counts.note("turned away")
        facts: dict[str, Any] = {"address": address, "reason": reason}
        log.info("connection refused", extra={**facts, "kind": f"connection refused {reason[:20]}"})
        goodbye = wire.plain_packet(wire.disconnect(wire.TOO_MANY_CONNECTIONS, reason))
        with suppress(OSError):
            connection.setblocking(False)
            connection.send(identification.OURS + b"\r\n" + goodbye)
            connection.shutdown(socket.SHUT_WR)
        self._lingering.append((now + _LINGER_SECONDS, connection))
        if len(self._lingering) > _MOST_LINGERING:
            self._lingering.popleft()[1].close()
