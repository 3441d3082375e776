"""The notices for users without a route, as their files are at each login."""

import os
import stat
from pathlib import Path

from gateway.domain import notice
from gateway.domain.notice import Notice


def find(pipe_file: Path, user: str) -> Notice | None:
    """Return the user's notice; None if there is none, or if another account could read or write its file.

    Raises OSError and ValueError for a file that cannot be used.
    """
    path = notice.path(pipe_file, user)
    try:
        content = _read(path) if path else None
    except FileNotFoundError:
        return None
    return None if content is None else Notice.load(content)


def _read(path: Path) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode) or mode & 0o077:
            raise ValueError(f"its notice is open to other accounts: chmod 600 {path.name}")
        return file.read(notice.LARGEST)
