"""Atomic replacement of files, and the errors of a full disk."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gateway.errors import DiskFull, Unavailable


def is_full(error: OSError) -> bool:
    """Whether the disk is full, or the quota on it is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def translated_errors(disk: str, what: str, error: type[Unavailable] = Unavailable) -> Iterator[None]:
    """Raise `DiskFull` instead of the error of a full disk, and `error` instead of any other `OSError`.

    `disk` names the disk, such as "the disk of the state", and `what` says what is not possible now.
    """
    try:
        yield
    except OSError as problem:
        if is_full(problem):
            raise DiskFull(f"{disk} is full: free some space on it.") from problem
        raise error(f"{what} ({problem.strerror}).") from problem


@contextmanager
def replacing(
    path: Path,
    mode: int,
    draft: Path | None = None,
    ready: Callable[[], None] = lambda: None,
    like: Path | None = None,
    is_durable: bool = True,
) -> Iterator[IO[bytes]]:
    """Write a new file that takes the place of `path` when the block ends without an error.

    Readers see the old file or the new one. The new file is on the disk before it gets the name, with `mode`
    and the owner of the file that it replaces, or of `like`. Until then its path is `draft`, in the same
    directory. `ready` is called when the new file is on the disk; if it raises, nothing is replaced. Without
    `is_durable`, nothing waits for the disk: after a power failure the file may be empty or old.
    """
    draft = draft or path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)  # a killed process left it
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", buffering=1 << 20) as file:
            os.fchmod(descriptor, mode)
            with suppress(FileNotFoundError):
                owner = (like or path).lstat()
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            yield file
            file.flush()
            if is_durable:
                os.fsync(descriptor)
        ready()
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    if is_durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Write the entries of the directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
