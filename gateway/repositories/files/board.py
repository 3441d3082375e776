"""The two files that change during a session: the message of the day, and the lease for programs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

from gateway.domain import session_texts
from gateway.domain.board import Board
from gateway.domain.words import columns
from gateway.repositories.lock import take, wait
from gateway.repositories.storage import replacing

_LABEL_WIDTH = 12
MOTD, LEASE = "motd", "lease"


def replace(etc: Path, wanted: Callable[[], Board | None]) -> None:
    """Write the board that `wanted` returns; None changes nothing.

    `wanted` is called under a lock that excludes other writers, so what it reads from the database is
    current. Raises `OSError`, and its subclass `FileNotFoundError` if the session has no
    files any more.
    """
    with _locked(etc):
        if board := wanted():
            for name, content in texts(_read(etc / MOTD), board).items():
                if _read(etc / name) != content:
                    _replace(etc / name, content)


def shows(etc: Path, board: Board) -> bool:
    """Whether the files have the content of the board. Raises `OSError` like `replace`."""
    expected = texts(_read(etc / MOTD), board)
    return all(_read(etc / name) == content for name, content in expected.items())


def texts(motd: str | None, board: Board) -> dict[str, str]:
    """Return the content of both files, by their names. `motd` is the content that the first one has now: the
    part above the end of the lease never changes. The session may be older than the gateway's language."""
    above = motd or ""
    for label in session_texts.lease_labels().values():
        above = above.partition(line(label, ""))[0]
    notices = "".join(f"{line(label, text)}\n\n" for label, text in board.notices.items())
    return {
        MOTD: f"{above}{line(board.lease_label, board.lease)}\n\n{notices}",
        LEASE: "".join(f"{name}={value}\n" for name, value in board.facts.items()),
    }


def line(label: str, text: str) -> str:
    """A line of the message of the day. On a terminal, a Korean character is as wide as two others."""
    return f"  {label}{' ' * (_LABEL_WIDTH - columns(label))}{text}"


def lease_end(etc: Path) -> datetime | None:
    """Return the end of the lease from the files; None if they have no valid time."""
    facts = dict(line.partition("=")[::2] for line in (_read(etc / LEASE) or "").splitlines())
    try:
        return datetime.fromisoformat(facts["ends"])
    except (KeyError, ValueError):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def _replace(path: Path, content: str) -> None:
    """No session survives a power failure, so the files need not."""
    with replacing(path, 0o444, is_durable=False) as file:
        file.write(content.encode())


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        wait(partial(take, descriptor), f"write the notices of session {directory.parent.name}")
        yield
    finally:
        os.close(descriptor)
