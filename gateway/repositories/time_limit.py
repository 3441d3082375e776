"""A time limit for calls that may hang in the kernel, as those to a driver or to a network file system."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.errors import Unavailable

T = TypeVar("T")


@dataclass(frozen=True)
class TimeLimit:
    """A thread that waits in the kernel cannot be stopped, so a call that is late goes on in its thread,
    which is called `name`. At most `at_once` calls run. `late` and `crowded` make the errors."""

    name: str
    seconds: float
    at_once: int
    late: Callable[[], Unavailable]
    crowded: Callable[[], Unavailable]
    _threads: threading.BoundedSemaphore = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_threads", threading.BoundedSemaphore(self.at_once))

    def __call__(self, call: Callable[[], T]) -> T:
        """Return what `call` returns, or raise what it raises. Raises the errors above after `seconds`."""
        deadline = time.monotonic() + self.seconds
        if not self._threads.acquire(timeout=self.seconds):
            raise self.crowded()
        outcome: Future[T] = Future()
        threading.Thread(target=self._run, args=(call, outcome), name=self.name, daemon=True).start()
        try:
            return outcome.result(timeout=max(0.0, deadline - time.monotonic()))
        except TimeoutError as error:
            raise self.late() from error

    def _run(self, call: Callable[[], T], outcome: "Future[T]") -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001
            outcome.set_exception(error)
        finally:
            self._threads.release()
