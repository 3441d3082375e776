"""Locks between processes: lock files that only the gateway's own account can open.

An account that can open a file can also lock it. Every wait has a time limit and an error with its purpose.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gateway.errors import Unavailable

WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.005
_PRIVATE = 0o600


@contextmanager
def locked(
    path: Path, purpose: str, seconds: float = WAIT_SECONDS, error: Callable[[str], Exception] = Unavailable
) -> Iterator[None]:
    """Hold the lock file at `path`, which is created if it is missing. Threads exclude each other, too.

    Raises `error` when another process holds it for `seconds`; `purpose` completes "waiting to …". Raises
    `OSError` when the file cannot be created.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    keep_private(path)
    try:
        with FileLock(path, timeout=seconds, mode=_PRIVATE, poll_interval=_POLL_SECONDS, thread_local=False):
            yield
    except Timeout as expired:
        raise error(timed_out(purpose, seconds)) from expired


def wait(attempt: Callable[[], bool], purpose: str, seconds: float = WAIT_SECONDS) -> None:
    """Call `attempt` until it returns True. Raises `Unavailable` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not attempt():
        if time.monotonic() > deadline:
            raise Unavailable(timed_out(purpose, seconds))
        time.sleep(_POLL_SECONDS)


def take(descriptor: int) -> bool:
    """Try to lock the open file or directory, and return whether that succeeded, without waiting. The lock
    ends when the descriptor is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def timed_out(purpose: str, seconds: float) -> str:
    return (
        f"Another process still holds the lock after {seconds:g} s of waiting to {purpose}; see which one "
        "with `lslocks`, and stop it if it hangs."
    )


def keep_private(path: Path) -> None:
    """Close an existing lock file or directory of locks to other accounts. Older versions left them open."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if mode & 0o077:
        os.chmod(path, 0o700 if stat.S_ISDIR(mode) else _PRIVATE)
