"""Which of the processes that share a database reaps: a file lock says so, or a lease in PostgreSQL."""

import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

from sqlalchemy import ColumnElement, func, not_, or_, select, update

from gateway.database_url import DatabaseUrl
from gateway.domain.models import Deployment
from gateway.errors import DatabaseUnavailable
from gateway.repositories.sql.database import make_engine, reading, translated_errors

LEASE_SECONDS = 1.5
_RENEW_SECONDS = 0.3
_LEASE = timedelta(seconds=LEASE_SECONDS)


class FileLock:
    """The lock goes with its process. The file's time of change is the last tick, for all to see."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self._path, "a")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._file = file
        return True

    def held(self) -> bool:
        return self._file is not None

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def tick(self) -> None:
        os.utime(self._path)

    def last_tick(self) -> datetime | None:
        try:
            return datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
        except FileNotFoundError:
            return None

    def leader(self) -> str | None:
        """A shared lock, let go at once, tells whether anybody leads without becoming the leader; the
        kernel's list names those that this process may see."""
        try:
            with open(self._path, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return next((f"process {pid}" for pid in _holders(inode)), "a process not seen from here")
        return None


class DatabaseLease:
    """A lease in PostgreSQL, by the server's clock, renewed by a thread as long as it is held.

    Not an advisory lock, which would be simpler: the server keeps that for a process that is frozen, or was
    cut off without a farewell, until TCP gives up. The holder itself counts from before it asked, on a clock
    that cannot be set and goes on while the process is stopped: it knows that its lease is over no later than
    the others do.
    """

    def __init__(self, db: DatabaseUrl) -> None:
        self.engine = reading(make_engine(db))  # each statement commits by itself: nothing is held meanwhile
        self._me = f"{socket.gethostname()[:64]}/{secrets.token_hex(8)}"
        self._until = 0.0
        self._released = threading.Event()
        self._keeper: threading.Thread | None = None

    def acquire(self) -> bool:
        if not self._ask():
            return False
        self._released.clear()
        self._keeper = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._keeper.start()
        return True

    def held(self) -> bool:
        return time.monotonic() < self._until

    def release(self) -> None:
        self._released.set()
        if self._keeper is not None:
            self._keeper.join(timeout=LEASE_SECONDS)
        self._until = 0.0
        self._set(Deployment.leader == self._me, leader=None, lease_until=None)

    def tick(self) -> None:
        self._set(Deployment.leader == self._me, ticked_at=func.now())

    def last_tick(self) -> datetime | None:
        with translated_errors(), self.engine.connect() as connection:
            return connection.scalar(select(Deployment.ticked_at))

    def leader(self) -> str | None:
        with translated_errors(), self.engine.connect() as connection:
            holds = Deployment.lease_until > func.now()
            return connection.scalar(select(Deployment.leader).where(holds))

    def _keep(self) -> None:
        while self.held() and not self._released.wait(_RENEW_SECONDS):
            with suppress(DatabaseUnavailable):
                if not self._ask():
                    self._until = 0.0

    def _ask(self) -> bool:
        """Compare and set: the lease, if it is ours, or over, or was given by a clock that was set back."""
        asked = time.monotonic()
        over = not_(Deployment.lease_until.between(func.now(), func.now() + _LEASE))
        free = or_(Deployment.leader == self._me, Deployment.lease_until.is_(None), over)
        given = self._set(free, leader=self._me, lease_until=func.now() + _LEASE)
        if given:
            self._until = asked + LEASE_SECONDS
        return given

    def _set(self, condition: ColumnElement[bool], **values: Any) -> bool:
        with translated_errors(), self.engine.connect() as connection:
            return bool(connection.execute(update(Deployment).where(condition).values(**values)).rowcount)


def _holders(inode: int) -> Iterator[str]:
    """Ids of processes that hold a lock on that file, not of those that wait for one."""
    for line in Path("/proc/locks").read_text().splitlines():
        _number, kind, *others = line.split()
        if kind == "FLOCK" and others[3].endswith(f":{inode}"):
            yield others[2]
