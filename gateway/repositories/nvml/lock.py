"""One change of a GPU at a time, among all processes that share a directory."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gateway.errors import DriverUnavailable

_POLL_SECONDS = 0.005


@contextmanager
def locked(directory: Path, gpu_uuid: str, seconds: float) -> Iterator[None]:
    """Hold the GPU's lock. Raises `DriverUnavailable` after `seconds`, or if the lock file cannot be opened.
    Threads exclude each other, too: each opens the file itself, and flock belongs to the open file."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = open(directory / f"{gpu_uuid}.lock", "w")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise DriverUnavailable(
            f"The gateway cannot lock GPU {gpu_uuid}: {error.strerror}; make its lock directory writable."
        ) from error
    with lock:
        _take(lock, gpu_uuid, seconds)
        yield


def _take(lock: IO[str], gpu_uuid: str, seconds: float) -> None:
    """The wait is bounded, so that a create whose caller has timed out does not start later."""
    ends = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > ends:
                raise DriverUnavailable(
                    f"Another call for GPU {gpu_uuid} has not ended within {seconds:g} s; see whether "
                    "nvidia-smi answers, and dmesg."
                ) from error
            time.sleep(_POLL_SECONDS)
