"""The thread that closes sessions when their lease ends. The reconciler runs beside it.

Every process of the gateway has a reaper. Only the one in the leading process works; if it stops, another
process becomes the leader.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import partial
from typing import TypeVar

from gateway.background.idler import Idler
from gateway.background.login_recorder import LoginRecorder
from gateway.background.memory import return_free_memory
from gateway.background.opener import Opener
from gateway.background.prober import Prober
from gateway.background.reconciler import Reconciler
from gateway.background.rounds import SideBySide, repeating
from gateway.background.sender import Sender
from gateway.background.warner import Warner
from gateway.background.watch import Watch
from gateway.domain.audit import REAPER, acting
from gateway.domain.models import Session
from gateway.errors import GatewayError
from gateway.services.disk_use import DiskUse
from gateway.services.gauges import Gauges
from gateway.services.ports import Leadership
from gateway.services.readiness import RECONCILE_SECONDS

log = logging.getLogger(__name__)

_SURVEY_SECONDS = 300.0
_MEASURE_SECONDS = 15.0
_PROBE_SECONDS = 60.0
_TICK_SECONDS = 1.0  # the longest delay until the reaper sees an expiry that another process has written
_TRY_SECONDS = 0.25  # how often the other processes try to become the leader
_CLOSING_SECONDS = 2.0  # the longest delay that a closing that hangs causes for other sessions
_END_SECONDS = 5.0
_FAILED = "a step of the reaper failed and is tried again"

T = TypeVar("T")


class Reaper:
    def __init__(
        self,
        reconciler: Reconciler,
        watch: Watch,
        warner: Warner,
        recorder: LoginRecorder,
        disk_use: DiskUse,
        gauges: Gauges,
        sender: Sender,
        idler: Idler,
        opener: Opener,
        prober: Prober,
        leadership: Leadership,
    ) -> None:
        self._reconciler = reconciler
        self._watch = watch
        self._warner = warner
        self._recorder = recorder
        self._disk_use = disk_use
        self._gauges = gauges
        self._sender = sender
        self._idler = idler
        self._opener = opener
        self._prober = prober
        self._leadership = leadership
        self._stop = threading.Event()
        self._wake = threading.Event()  # reconcile now, before the next regular time
        self._reconciled_at: float | None = None
        self._closers = SideBySide("reap")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start this process's thread. Call it again after a fork, because a child process has no threads."""
        self._stop.clear()
        self._wake.clear()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def reap(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Close every session whose lease is over, several at the same time, while `go_on` returns True."""

        def close(session: Session) -> None:
            if go_on():
                self._reconciler.reap(session)

        closings = {session.id: partial(close, session) for session in self._reconciler.expired()}
        self._closers.do(closings, _CLOSING_SECONDS)

    def reconcile(self) -> None:
        with acting(REAPER):
            self._reconciler.reconcile()

    def last_tick(self) -> datetime | None:
        return self._leadership.last_tick()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._guarded(self._leadership.acquire):
                log.info("reaper leads")
                with self._helpers():
                    self._work()
            self._stop.wait(_TRY_SECONDS)
        self._guarded(self._leadership.release)

    def _work(self) -> None:
        leads = self._leadership.held
        self._reconciled_at = None
        self._guarded(lambda: self.reap(leads))  # first, so that a lease that is over ends for that reason
        with self._reconciling(leads):
            while leads() and not self._stop.is_set():
                self._guarded(lambda: self.reap(leads))
                self._guarded(self._reconciler.follow_routes)
                if self._reconciles():
                    self._guarded(self._leadership.tick)
                self._stop.wait(self._pause())
        if not self._stop.is_set():
            log.warning("reaper leads no more")

    @contextmanager
    def _reconciling(self, leads: Callable[[], bool]) -> Iterator[None]:
        """Run the reconciler until the end of the block, in a thread of its own: a part of the host that
        hangs must not delay the ends of leases."""
        over = threading.Event()

        def run() -> None:
            while leads():
                self._wake.clear()
                if over.is_set():
                    return
                self._guarded(self.reconcile)
                return_free_memory()
                self._reconciled_at = time.monotonic()
                self._wake.wait(RECONCILE_SECONDS)

        thread = threading.Thread(target=run, name="reconciler", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            self._wake.set()
            thread.join(_END_SECONDS)

    def _reconciles(self) -> bool:
        """Whether the reconciler has done its work, and not too long ago."""
        at = self._reconciled_at
        return at is not None and time.monotonic() - at < 2 * RECONCILE_SECONDS

    @contextmanager
    def _helpers(self) -> Iterator[None]:
        """Run the leader's other threads until the end of the block."""
        helpers = (
            self._watch.following(self._wake.set),
            self._warner.working(),
            self._recorder.working(),
            self._sender.working(),
            self._idler.working(),
            self._opener.working(),
            repeating("survey", _SURVEY_SECONDS, lambda _: self._disk_use.survey(), _FAILED),
            repeating("gauges", _MEASURE_SECONDS, lambda _: self._gauges.measure(), _FAILED),
            repeating("prober", _PROBE_SECONDS, self._prober.ask, _FAILED),
        )
        with ExitStack() as running:
            for helper in helpers:
                running.enter_context(helper)
            yield

    def _pause(self) -> float:
        """Return the seconds until the next known expiry or the next tick, whichever comes first."""
        try:
            remaining = self._reconciler.next_expiry()
        except GatewayError:
            return _TICK_SECONDS
        if remaining is None:
            return _TICK_SECONDS
        return min(_TICK_SECONDS, max(0.01, remaining.total_seconds()))

    @staticmethod
    def _guarded(work: Callable[[], T]) -> T | None:
        """Call `work` and log its errors: the reaper continues after every error."""
        try:
            return work()
        except GatewayError as error:
            log.warning(_FAILED, extra={"error": str(error)})
        except Exception:  # noqa: BLE001
            log.exception("internal error in the reaper; it continues")
        return None
