"""The door: the socket by which programs in a session call the gateway."""

import os
from pathlib import Path

_NAME, _DRAFT = "door.sock", ".door.sock.new"


def hang(socket: Path, etc: Path) -> None:
    """Make `etc/door.sock` a hard link to the gateway's listening socket, in place of a link to an older one.

    A connection through any link reaches the process that listens. Raises `OSError`.
    """
    draft = etc / _DRAFT
    if not _is_same(socket, etc / _NAME):
        draft.unlink(missing_ok=True)
        os.link(socket, draft)
        draft.rename(etc / _NAME)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except FileNotFoundError:
        return False
