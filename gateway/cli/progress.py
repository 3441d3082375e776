"""Shows on a terminal that a request is still being answered, and for how long."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_STEP_SECONDS = 0.5


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Show `what` and the seconds so far on standard error, if it is a terminal, until the block ends."""
    if not sys.stderr.isatty():
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(what, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


def _show(what: str, done: threading.Event) -> None:
    began = time.monotonic()
    while not done.is_set():
        sys.stderr.write(f"\r{what} … {time.monotonic() - began:.0f} s")
        sys.stderr.flush()
        done.wait(_STEP_SECONDS)
