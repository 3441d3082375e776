"""How often somebody may fail within a minute before it is too much.

Tokens cannot be guessed; this bounds what a stranger can make the log and the audit trail grow by. A valid
token is let in from every address at any time.
"""

import threading
from collections import OrderedDict
from datetime import timedelta

from gateway.domain.clock import Clock

_WINDOW = timedelta(minutes=1)
_REMEMBERED = 4096  # the longest known are forgotten first


class Failures:
    """Counted in the memory of one worker."""

    def __init__(self, clock: Clock, allowed: int) -> None:
        self._clock = clock
        self._allowed = allowed
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[timedelta, int]] = OrderedDict()

    def note(self, who: str) -> tuple[int, int]:
        """One more: by how many that is too many, and in how many seconds the minute is over."""
        now = self._clock().uptime
        with self._lock:
            since, count = self._counts.get(who, (now, 0))
            if now - since >= _WINDOW:
                since, count = now, 0
                self._counts.pop(who, None)
            self._counts[who] = since, count + 1
            if len(self._counts) > _REMEMBERED:
                self._counts.popitem(last=False)
        left = round((since + _WINDOW - now).total_seconds())
        return max(0, count + 1 - self._allowed), max(1, left)
