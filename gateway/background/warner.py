"""The thread that does the steps before leases end. It runs beside the reaper and does not delay it."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from gateway.background.rounds import Jobs, rounds
from gateway.domain.models import Session
from gateway.domain.warnings import Due, Step
from gateway.errors import GatewayError
from gateway.services.warnings import Warnings

log = logging.getLogger(__name__)

_ROUND_SECONDS = 1.0
_WORKERS = 8
_RETRY_SECONDS = {Step.WARN: 60.0, Step.HOOK: 5.0, Step.SIGNAL: 5.0}

Key = tuple[str, int, Due]  # a step of one lease of a session


@dataclass
class Warner:
    """A step that fails is repeated later. Its failure is recorded in the audit log once."""

    warnings: Warnings
    _failed: dict[Key, float] = field(default_factory=dict, init=False)  # the time of the next attempt
    _jobs: Jobs = field(default_factory=Jobs, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Run a thread that does the due steps each second until the end of the block."""
        with rounds("warner", _WORKERS, self._round_now, lambda: _ROUND_SECONDS, "warnings are late"):
            yield

    def round(self, pool: ThreadPoolExecutor, now: float) -> None:
        """Start every step that is due, except those that run already or wait for their next attempt. `now`
        is in seconds of a monotonic clock."""
        due = [(_key(session, step), session, step) for session, step in self.warnings.due()]
        with self._lock:
            keys = {key for key, *_ in due}
            self._failed = {key: at for key, at in self._failed.items() if key in keys}
            waiting = {key for key, at in self._failed.items() if at > now}
        for key, session, step in due:
            if key not in waiting:
                self._jobs.start(pool, key, partial(self._do, key, session, step, now))

    def _round_now(self, pool: ThreadPoolExecutor, _over: threading.Event) -> None:
        self.round(pool, time.monotonic())

    def _do(self, key: Key, session: Session, due: Due, now: float) -> None:
        try:
            self.warnings.do(session, due)
        except GatewayError as error:
            self._fail(key, session, due, now, error)

    def _fail(self, key: Key, session: Session, due: Due, now: float, error: GatewayError) -> None:
        with self._lock:
            is_first = key not in self._failed
            self._failed[key] = now + _RETRY_SECONDS[due.step]
        failure = {**session.named, "step": due.step, "error": str(error)}
        log.warning("a step before the end of a lease failed and is tried again", extra=failure)
        if is_first:
            with suppress(GatewayError):  # the failure is in the log
                self.warnings.note_failure(session, due, error)


def _key(session: Session, due: Due) -> Key:
    return session.id, session.lease_seconds, due
