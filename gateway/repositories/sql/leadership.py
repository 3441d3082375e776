"""Leadership among the processes that share a database: a file lock, or a row in PostgreSQL."""

import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any

from sqlalchemy import ColumnElement, func, not_, or_, select, update

from gateway.database_url import DatabaseUrl
from gateway.domain.models import Deployment
from gateway.errors import DatabaseUnavailable
from gateway.repositories import storage
from gateway.repositories.lock import keep_private
from gateway.repositories.sql.database import make_engine, translated_errors, without_transactions

TERM_SECONDS = 1.5
_RENEW_SECONDS = 0.3
_TERM = timedelta(seconds=TERM_SECONDS)
_translated_file_errors = partial(
    storage.translated_errors,
    "The disk of the gateway's state",
    "The lock file of the leading process cannot be read or written",
)


class FileLeadership:
    """Leadership by a lock on a file, which ends with the process. The file's mtime is the last tick."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        with _translated_file_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            keep_private(self._path)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        file = open(descriptor, "a")  # noqa: SIM115
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
        with _translated_file_errors():
            os.utime(self._path)

    def last_tick(self) -> datetime | None:
        with _translated_file_errors():
            try:
                return datetime.fromtimestamp(self._path.stat().st_mtime, UTC)
            except FileNotFoundError:
                return None

    def leader(self) -> str | None:
        """Return the process that leads, None if there is none.

        A shared lock, released at once, shows whether a process leads. /proc/locks has its id, if this
        process can see it.
        """
        try:
            with open(self._path, "rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            return next((f"process {pid}" for pid in _holders(inode)), "a process in another PID namespace")
        return None


class DatabaseLeadership:
    """Leadership for terms of `TERM_SECONDS` in PostgreSQL, by the server's clock. A thread renews the term.

    An advisory lock would be simpler, but the server keeps it until TCP times out for a process that is
    stopped or left the network. The leader measures its term from before each request, on a clock that nobody
    can set and that runs while the process is stopped. So it knows that its term is over no later than the
    others do.
    """

    def __init__(self, db: DatabaseUrl) -> None:
        self.engine = without_transactions(make_engine(db))
        self._name = f"{socket.gethostname()[:64]}/{secrets.token_hex(8)}"
        self._term_ends = 0.0
        self._released = threading.Event()
        self._renewer: threading.Thread | None = None

    def acquire(self) -> bool:
        if not self._request_term():
            return False
        self._released.clear()
        self._renewer = threading.Thread(target=self._renew, name="leadership", daemon=True)
        self._renewer.start()
        return True

    def held(self) -> bool:
        return time.monotonic() < self._term_ends

    def release(self) -> None:
        self._released.set()
        if self._renewer is not None:
            self._renewer.join(timeout=TERM_SECONDS)
        self._term_ends = 0.0
        self._set(Deployment.leader == self._name, leader=None, lease_until=None)

    def tick(self) -> None:
        self._set(Deployment.leader == self._name, ticked_at=func.now())

    def last_tick(self) -> datetime | None:
        with translated_errors(), self.engine.connect() as connection:
            return connection.scalar(select(Deployment.ticked_at))

    def leader(self) -> str | None:
        with translated_errors(), self.engine.connect() as connection:
            in_term = Deployment.lease_until > func.now()
            return connection.scalar(select(Deployment.leader).where(in_term))

    def _renew(self) -> None:
        while self.held() and not self._released.wait(_RENEW_SECONDS):
            with suppress(DatabaseUnavailable):
                if not self._request_term():
                    self._term_ends = 0.0

    def _request_term(self) -> bool:
        """Compare and set: take a new term if this process leads, or no term is running.

        A term that ends too far in the future counts as over: the server's clock was set back.
        """
        requested = time.monotonic()
        over = not_(Deployment.lease_until.between(func.now(), func.now() + _TERM))
        free = or_(Deployment.leader == self._name, Deployment.lease_until.is_(None), over)
        granted = self._set(free, leader=self._name, lease_until=func.now() + _TERM)
        if granted:
            self._term_ends = requested + TERM_SECONDS
        return granted

    def _set(self, condition: ColumnElement[bool], **values: Any) -> bool:
        with translated_errors(), self.engine.connect() as connection:
            return bool(connection.execute(update(Deployment).where(condition).values(**values)).rowcount)


def _holders(inode: int) -> Iterator[str]:
    """Return the ids of the processes that hold a lock on the file, without those that wait for one."""
    for line in Path("/proc/locks").read_text().splitlines():
        _number, kind, *others = line.split()
        if kind == "FLOCK" and others[3].endswith(f":{inode}"):
            yield others[2]
