"""The thread that takes sessions back when their lease ends and keeps the parts in agreement.

Every process of the gateway has one; the one that leads works, and the others take over when it no
longer does.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

from gateway.background.reconciler import Reconciler
from gateway.background.warner import Warner
from gateway.background.watch import Watch
from gateway.domain.audit import REAPER, acting, actor
from gateway.domain.models import Session
from gateway.errors import GatewayError
from gateway.services.disk_use import DiskUse
from gateway.services.ports import Leadership
from gateway.services.readiness import RECONCILE_SECONDS

log = logging.getLogger(__name__)

_SURVEY_SECONDS = 300.0
_LOOK_SECONDS = 1.0  # how late an expiry that another process has just written is noticed
_TRY_SECONDS = 0.25  # how often those that do not lead ask whether they may
_CLOSE_AT_ONCE = 8

T = TypeVar("T")


class Reaper:
    def __init__(
        self,
        reconciler: Reconciler,
        watch: Watch,
        warner: Warner,
        disk_use: DiskUse,
        leadership: Leadership,
    ) -> None:
        self._reconciler = reconciler
        self._watch = watch
        self._warner = warner
        self._disk_use = disk_use
        self._leadership = leadership
        self._stop = threading.Event()
        self._look = threading.Event()  # now, and not only when it is time
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start this process's thread; again after a fork, which threads do not survive."""
        self._stop.clear()
        self._look.clear()
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._look.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def reap(self, go_on: Callable[[], bool] = lambda: True) -> None:
        """Take back every session whose lease is over, several at once, and as long as `go_on` says so."""

        def take_back(session: Session) -> None:
            if go_on():
                self._reconciler.reap(session)

        expired = self._reconciler.expired()
        if expired:
            with ThreadPoolExecutor(_CLOSE_AT_ONCE, "reap", actor.set, (REAPER,)) as pool:
                list(pool.map(take_back, expired))

    def reconcile(self) -> None:
        with acting(REAPER):
            self._reconciler.reconcile()

    def last_tick(self) -> datetime | None:
        return self._leadership.last_tick()

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._guarded(self._leadership.acquire):
                log.info("reaper leads")
                with self._watch.following(self._look.set), self._warner.working(), self._surveying():
                    self._work()
            self._stop.wait(_TRY_SECONDS)
        self._guarded(self._leadership.release)

    def _work(self) -> None:
        leads = self._leadership.held
        reconcile_at = time.monotonic()
        while leads() and not self._stop.is_set():
            self._guarded(lambda: self.reap(leads))
            if leads() and (self._look.is_set() or time.monotonic() >= reconcile_at):
                self._look.clear()
                self._guarded(self.reconcile)
                reconcile_at = time.monotonic() + RECONCILE_SECONDS
            self._guarded(self._leadership.tick)
            self._look.wait(self._pause())
        if not self._stop.is_set():
            log.warning("reaper leads no more")

    @contextmanager
    def _surveying(self) -> Iterator[None]:
        """Until the end of the block a thread measures workspaces, which may take longer than any look."""
        over = threading.Event()

        def survey() -> None:
            with acting(REAPER):
                while not over.is_set():
                    self._guarded(self._disk_use.survey)
                    over.wait(_SURVEY_SECONDS)

        threading.Thread(target=survey, name="survey", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def _pause(self) -> float:
        """Seconds until the next expiry that is known, or until it is time to look for new ones."""
        try:
            left = self._reconciler.next_expiry()
        except GatewayError:
            return _LOOK_SECONDS
        if left is None:
            return _LOOK_SECONDS
        return min(_LOOK_SECONDS, max(0.01, left.total_seconds()))

    @staticmethod
    def _guarded(work: Callable[[], T]) -> T | None:
        """The reaper outlives whatever its work runs into."""
        try:
            return work()
        except GatewayError as error:
            log.warning("a look failed and is tried again", extra={"error": str(error)})
        except Exception:  # noqa: BLE001
            log.exception("the reaper ran into a defect and goes on")
        return None
