"""The thread that serves the waiting line: it opens the sessions of requests whose turn has come."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from gateway.background.rounds import Jobs, rounds
from gateway.errors import GatewayError
from gateway.services.queue import Queue

log = logging.getLogger(__name__)

_ROUND_SECONDS, _SHORTEST_PAUSE = 1.0, 0.05
_REPLAN_SECONDS = 10.0  # GPUs may be lost, and may come back, without a change of any row
_CLAIM_SECONDS = 10.0
_OPENERS = 8  # sessions that are opened at the same time

Work = Callable[[str], None]


@dataclass
class Opener:
    """Plans the line as soon as a session has ended, and does not delay the reaper."""

    queue: Queue
    _state: object = field(default=None, init=False)
    _next_at: float = field(default=0.0, init=False)
    _claims_at: float = field(default=0.0, init=False)
    _jobs: Jobs = field(default_factory=Jobs, init=False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run a thread that serves the line until the end of the block."""
        with rounds("opener", _OPENERS, self._round_now, self._until_next, "the waiting line is served late"):
            yield

    def round(self, pool: ThreadPoolExecutor, now: float) -> None:
        """Serve the line if anything has changed. `now` is in seconds of a monotonic clock."""
        if now >= self._claims_at + _CLAIM_SECONDS:
            self._claims_at = now
            self._start(pool, self.queue.unclaimed(), self.queue.claim)
        state = self.queue.state()
        if state is None or (now < self._next_at and state == self._state):
            return
        self._start(pool, self.queue.serve(), self.queue.open)
        self._state, self._next_at = self.queue.state(), now + self._pause(_REPLAN_SECONDS)
        self.queue.login_notices.settle_line()

    def _round_now(self, pool: ThreadPoolExecutor, _over: threading.Event) -> None:
        self.round(pool, time.monotonic())

    def _until_next(self) -> float:
        return self._pause(_ROUND_SECONDS)

    def _pause(self, longest: float) -> float:
        """Return the seconds until something happens in the line, at most `longest`."""
        try:
            next_change = self.queue.next_change()
        except GatewayError:
            return longest
        seconds = longest if next_change is None else next_change.total_seconds()
        return min(longest, max(_SHORTEST_PAUSE, seconds))

    def _start(self, pool: ThreadPoolExecutor, ids: Sequence[str], work: Work) -> None:
        for session_id in ids:
            self._jobs.start(pool, session_id, partial(self._do, session_id, work))

    def _do(self, session_id: str, work: Work) -> None:
        try:
            work(session_id)
        except GatewayError as error:
            log.warning(
                "a request in line is served later", extra={"session_id": session_id, "error": str(error)}
            )
