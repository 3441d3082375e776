"""A thread that looks for work again and again, and the jobs that it starts in a pool."""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from gateway.domain.audit import REAPER, acting, actor
from gateway.errors import GatewayError

log = logging.getLogger(__name__)

_AT_ONCE = 8
_REST, _LONGEST_REST_SECONDS = 20, 60.0  # work is repeated after so many times what it took

Round = Callable[[ThreadPoolExecutor, threading.Event], None]


@contextmanager
def rounds(name: str, workers: int, round: Round, pause: Callable[[], float], failure: str) -> Iterator[None]:
    """Run a thread that does a round again and again until the end of the block.

    A round gets the pool for its jobs, and the event that ends the thread. `pause` returns the seconds until
    the next round. `failure` is the log message for a round that fails.
    """
    over = threading.Event()

    def run() -> None:
        with acting(REAPER), ThreadPoolExecutor(workers, name, actor.set, (REAPER,)) as pool:
            while not over.is_set():
                try:
                    round(pool, over)
                except GatewayError as error:
                    log.warning(failure, extra={"error": str(error)})
                except Exception:  # noqa: BLE001
                    log.exception(
                        "internal error in a background thread; it continues", extra={"thread": name}
                    )
                over.wait(pause())

    threading.Thread(target=run, name=name, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def repeating(
    name: str, seconds: float, work: Callable[[Callable[[], bool]], None], failure: str
) -> AbstractContextManager[None]:
    """Run a thread that repeats `work` until the end of the block. `work` gets a function that returns False
    once the block has ended. Work that takes long, as on a large cluster, is done less often."""
    took = 0.0

    def once(_pool: ThreadPoolExecutor, over: threading.Event) -> None:
        nonlocal took
        began = time.monotonic()
        try:
            work(lambda: not over.is_set())
        finally:
            took = time.monotonic() - began

    def pause() -> float:
        return max(seconds, min(_LONGEST_REST_SECONDS, _REST * took))

    return rounds(name, 1, once, pause, failure)


@dataclass
class SideBySide:
    """Does several things at the same time, each of them once at a time."""

    name: str
    _running: set[str] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def do(self, acts: Mapping[str, Callable[[], None]], seconds: float) -> None:
        """Do the acts that do not run or wait already, eight at the same time. Return when they are done, or
        after `seconds`: then those that a part of the host holds up go on by themselves."""
        with self._lock:
            new = {key: act for key, act in acts.items() if key not in self._running}
            self._running |= new.keys()
        if not new:
            return
        pool = ThreadPoolExecutor(_AT_ONCE, self.name, actor.set, (REAPER,))
        wait([pool.submit(self._do, key, act) for key, act in new.items()], seconds)
        pool.shutdown(wait=False)

    def _do(self, key: str, act: Callable[[], None]) -> None:
        try:
            _guarded(act)
        finally:
            with self._lock:
                self._running.discard(key)


def _guarded(act: Callable[[], None]) -> None:
    try:
        act()
    except GatewayError as error:
        log.warning("a step failed and is tried again", extra={"error": str(error)})
    except Exception:  # noqa: BLE001
        log.exception("internal error in a background job")


@dataclass
class Jobs:
    """The jobs that run now, by their keys: two jobs with the same key do not run at the same time."""

    _running: set[Hashable] = field(default_factory=set, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def start(self, pool: ThreadPoolExecutor, key: Hashable, job: Callable[[], None]) -> None:
        """Start the job in the pool, unless one with this key runs."""
        with self._lock:
            if key in self._running:
                return
            self._running.add(key)
        pool.submit(self._do, key, job)

    def _do(self, key: Hashable, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception:  # noqa: BLE001
            log.exception("internal error in a background job", extra={"job": str(key)})
        finally:
            with self._lock:
                self._running.discard(key)
