"""Gives memory that is free back to the system."""

import ctypes
from contextlib import suppress


def return_free_memory() -> None:
    """Give back what a round over all sessions has used. glibc keeps it by default."""
    with suppress(OSError, AttributeError):  # other C libraries have no `malloc_trim`
        ctypes.CDLL(None).malloc_trim(0)
