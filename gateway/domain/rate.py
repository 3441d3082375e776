"""Counts what each client does within a minute.

The limits bound how fast clients can make the log and the audit log grow, and how often they start expensive
work.
"""

import threading
from collections import OrderedDict
from datetime import timedelta

from gateway.domain.clock import Clock

_WINDOW = timedelta(minutes=1)
_MAX_CLIENTS = 4096  # the oldest are dropped first


class PerMinute:
    """Counters in the memory of one process; each client may do `allowed` things a minute."""

    def __init__(self, clock: Clock, allowed: int) -> None:
        self._clock = clock
        self._allowed = allowed
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[timedelta, int]] = OrderedDict()

    def note(self, client: str) -> tuple[int, int]:
        """Count one. Return the number above the limit, and the seconds until the minute ends."""
        now = self._clock().uptime
        with self._lock:
            since, count = self._counts.get(client, (now, 0))
            if now - since >= _WINDOW:
                since, count = now, 0
                self._counts.pop(client, None)
            self._counts[client] = since, count + 1
            if len(self._counts) > _MAX_CLIENTS:
                self._counts.popitem(last=False)
        remaining_seconds = round((since + _WINDOW - now).total_seconds())
        return max(0, count + 1 - self._allowed), max(1, remaining_seconds)
