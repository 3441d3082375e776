"""How many wrong tokens one address may bring before it is told to wait.

Tokens cannot be guessed; this bounds what a stranger can make the log and the audit trail grow by. A valid
token is let in from every address at any time.
"""

import threading
from collections import OrderedDict
from datetime import timedelta

from gateway.clock import Clock

_ALLOWED = 20
_WINDOW = timedelta(minutes=1)
_ADDRESSES = 4096  # the longest known are forgotten first


class Failures:
    """Counted in the memory of one worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[timedelta, int]] = OrderedDict()

    def note(self, address: str) -> int:
        """One more from there; the seconds it is to wait, 0 while it is within its limit."""
        now = self._clock().uptime
        with self._lock:
            since, count = self._counts.get(address, (now, 0))
            if now - since >= _WINDOW:
                since, count = now, 0
                self._counts.pop(address, None)
            self._counts[address] = since, count + 1
            if len(self._counts) > _ADDRESSES:
                self._counts.popitem(last=False)
        return 0 if count < _ALLOWED else max(1, round((since + _WINDOW - now).total_seconds()))
