"""The thread that takes sessions back when their lease ends and keeps the parts in agreement.

Every process of the gateway has one; a file lock chooses the one that works, and the others take
over when its process dies. The lock file's time of change is the last tick, for all to see.
"""

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from gateway.audit import REAPER, acting, actor
from gateway.errors import GatewayError
from gateway.upkeep import Upkeep
from gateway.watch import Watch

log = logging.getLogger("gateway.reaper")

RECONCILE_SECONDS = 60.0
_LOOK_SECONDS = 1.0  # how late an expiry that another process has just written is noticed
_CLOSE_AT_ONCE = 8


class Reaper:
    def __init__(self, upkeep: Upkeep, watch: Watch, lock_file: Path) -> None:
        self._upkeep = upkeep
        self._watch = watch
        self._lock_file = lock_file
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

    def reap(self) -> None:
        """Take back every session whose lease is over, several at once."""
        expired = self._upkeep.expired()
        if expired:
            with ThreadPoolExecutor(_CLOSE_AT_ONCE, "reap", actor.set, (REAPER,)) as pool:
                list(pool.map(self._upkeep.reap, expired))

    def reconcile(self) -> None:
        with acting(REAPER):
            self._upkeep.reconcile()

    def last_tick(self) -> datetime | None:
        """When the leader, in whichever process, last looked; None before the first time."""
        try:
            return datetime.fromtimestamp(self._lock_file.stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def _run(self) -> None:
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        with open(self._lock_file, "a") as lock:
            while not self._lead(lock):
                if self._stop.wait(_LOOK_SECONDS / 2):
                    return
            log.info("reaper leads")
            with self._watch.following(self._look.set):
                self._work()

    @staticmethod
    def _lead(lock: IO[str]) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _work(self) -> None:
        reconcile_at = time.monotonic()
        while not self._stop.is_set():
            self._guarded(self.reap)
            if self._look.is_set() or time.monotonic() >= reconcile_at:
                self._look.clear()
                self._guarded(self.reconcile)
                reconcile_at = time.monotonic() + RECONCILE_SECONDS
            os.utime(self._lock_file)
            self._look.wait(self._pause())

    def _pause(self) -> float:
        """Seconds until the next expiry that is known, or until it is time to look for new ones."""
        try:
            expiry = self._upkeep.next_expiry()
        except GatewayError:
            return _LOOK_SECONDS
        if expiry is None:
            return _LOOK_SECONDS
        return min(_LOOK_SECONDS, max(0.01, (expiry - datetime.now(UTC)).total_seconds()))

    @staticmethod
    def _guarded(work: Callable[[], None]) -> None:
        """The reaper outlives whatever its work runs into."""
        try:
            work()
        except GatewayError as error:
            log.warning("a look failed and is tried again", extra={"error": str(error)})
        except Exception:  # noqa: BLE001
            log.exception("the reaper ran into a defect and goes on")
