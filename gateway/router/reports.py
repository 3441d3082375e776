"""Reports logins, refusals and ends to the gateway. The router never waits for the gateway, nor needs it."""

import os
import socket
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.domain.ssh_logins import REPORTS_AT_ONCE, SOCKET, Datagram, Kind, LoginReport

_MOST_KEPT = 2000
_RETRY_SECONDS = 0.5


class Reports:
    """Keeps the latest reports until the gateway takes them. `directory` is that of the pipe file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: deque[LoginReport] = deque()
        self._lost = 0
        self._retry_at = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def add(self, kind: Kind, facts: Mapping[str, Any], seconds: float = 0.0) -> None:
        """Keep a report. `facts` are those of a log line; a connection was logged in for `seconds`."""
        self._kept.append(
            LoginReport(
                kind=kind,
                at=time.time(),
                user=facts.get("user_id") or "",
                address=facts.get("address") or "",
                session_id=facts.get("session_id"),
                reason=facts.get("reason") or "",
                seconds=round(seconds),
            )
        )
        if len(self._kept) > _MOST_KEPT:
            self._kept.popleft()
            self._lost += 1

    def send(self, now: float) -> None:
        """Send what is kept, as far as the gateway takes it at once. `now` is in monotonic seconds."""
        while self._kept and now >= self._retry_at:
            reports = [self._kept[number] for number in range(min(REPORTS_AT_ONCE, len(self._kept)))]
            if not self._sent(Datagram(reports, self._lost).encode()):
                self._retry_at = now + _RETRY_SECONDS
                return
            self._lost = 0
            for _ in reports:
                self._kept.popleft()

    def _sent(self, data: bytes) -> bool:
        try:
            directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return False
        try:
            self._socket.sendto(data, f"/proc/self/fd/{directory}/{SOCKET}")
        except OSError:  # no gateway, or one that is busy
            return False
        finally:
            os.close(directory)
        return True
