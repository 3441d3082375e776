"""Locks that all processes on one PostgreSQL database see: its session-level advisory locks.

One connection of each process holds them, so they end with the process. A connection may take its own lock
twice; a set in the process keeps its threads apart.
"""

import hashlib
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Connection, text

from gateway.database_url import DatabaseUrl
from gateway.errors import DatabaseUnavailable, Unavailable
from gateway.repositories.sql.database import make_engine, translated_errors, without_transactions

WAIT_SECONDS = 10.0
_POLL_SECONDS = 0.02
_KEYS = text(
    "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND granted "
    "AND objsubid = 1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class AdvisoryLocks:
    def __init__(self, db: DatabaseUrl) -> None:
        self.engine = without_transactions(make_engine(db))
        self._connection: Connection | None = None
        self._here: set[str] = set()
        self._free = threading.Condition()
        self._talking = threading.Lock()

    @contextmanager
    def hold(self, name: str, seconds: float = WAIT_SECONDS) -> Iterator[None]:
        """Hold the lock of this name until the end of the block.

        Raises `Unavailable` if another thread or process holds it for `seconds`, and `DatabaseUnavailable`.
        """
        deadline = time.monotonic() + seconds
        self._enter(name, deadline)
        try:
            while not self._ask("pg_try_advisory_lock", name):
                _require_time(name, deadline)
                time.sleep(_POLL_SECONDS)
            try:
                yield
            finally:
                with suppress(DatabaseUnavailable):  # without its connection, the lock is gone
                    self._ask("pg_advisory_unlock", name)
        finally:
            with self._free:
                self._here.discard(name)
                self._free.notify_all()

    def held(self, names: Collection[str]) -> set[str]:
        """Return those of `names` whose lock any process holds. Raises `DatabaseUnavailable`."""
        with translated_errors(), self.engine.connect() as connection:
            keys = {int(key) for key in connection.scalars(_KEYS)}
        return {name for name in names if _key(name) in keys}

    def close(self) -> None:
        """Give up all locks, as at the end of the process."""
        with self._talking:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
        self.engine.dispose()

    def _enter(self, name: str, deadline: float) -> None:
        with self._free:
            while name in self._here:
                _require_time(name, deadline)
                self._free.wait(max(0.0, deadline - time.monotonic()))
            self._here.add(name)

    def _ask(self, function: str, name: str) -> bool:
        """Call a function of PostgreSQL on the connection that holds the locks. A broken one is replaced: its
        locks are gone, so their holders are treated as dead."""
        with self._talking, translated_errors():
            if self._connection is not None and self._connection.invalidated:
                self._connection.close()
                self._connection = None
            if self._connection is None:
                self._connection = self.engine.connect()
            return bool(self._connection.scalar(text(f"SELECT {function}(:key)"), {"key": _key(name)}))


def _require_time(name: str, deadline: float) -> None:
    if time.monotonic() >= deadline:
        raise Unavailable(f"Another process still works on {name}: try again in a moment.")


def _key(name: str) -> int:
    """The lock's number, a signed integer of 64 bits."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
