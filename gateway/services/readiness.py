"""One check for each part that sessions need. A check returns one line, or raises an error."""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gateway.domain.clock import Clock
from gateway.errors import GatewayError, Unavailable
from gateway.services.ports import Check, Database, Host, Pipes
from gateway.services.quota import WorkspaceQuota

log = logging.getLogger(__name__)

RECONCILE_SECONDS = 60.0
_VALID = timedelta(seconds=1)
_WAIT_SECONDS = 3.0  # for a round that another thread has begun
_WAITING = 4  # threads at a time


@dataclass(frozen=True, slots=True)
class Result:
    """`line` is the state of the part, or what is wrong with it."""

    is_ready: bool
    line: str


Results = Mapping[str, Result]


class Readiness:
    """Runs the checks. Some start processes, and a part that hangs can delay them by half a minute."""

    def __init__(self, checks: Mapping[str, Check], clock: Clock) -> None:
        self._checks = checks
        self._clock = clock
        self._running = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_WAITING)
        self._latest: tuple[timedelta, Results] | None = None

    def examine(self) -> Results:
        """Run every check now."""
        results = {name: _run(check) for name, check in self._checks.items()}
        self._latest = self._clock().uptime, results
        return results

    def recent(self) -> Results:
        """Return results that are at most a second old. One thread at a time runs the checks for them.

        Raises `Unavailable` if the checks do not end soon.
        """
        if not self._waiting.acquire(blocking=False):
            raise Unavailable("The checks have not ended yet; try again in a few seconds.")
        try:
            return self._recent()
        finally:
            self._waiting.release()

    def _recent(self) -> Results:
        if not self._running.acquire(timeout=_WAIT_SECONDS):
            raise Unavailable(f"The checks did not end within {_WAIT_SECONDS:g} s.")
        try:
            if self._latest and self._clock().uptime - self._latest[0] < _VALID:
                return self._latest[1]
            return self.examine()
        finally:
            self._running.release()


def checks(
    database: Database,
    host: Host,
    pipes: Pipes,
    quota: WorkspaceQuota,
    last_tick: Callable[[], datetime | None],
) -> Mapping[str, Check]:
    return {
        "database": lambda: _ready(database.check),
        **host.checks(),
        "pipes": lambda: _ready(pipes.check),
        "workspaces": quota.describe,
        "reaper": lambda: _describe_reaper(last_tick()),
    }


def _run(check: Check) -> Result:
    try:
        return Result(True, check())
    except GatewayError as error:
        return Result(False, str(error))
    except Exception as error:  # noqa: BLE001
        log.exception("internal error in a check")
        return Result(False, f"Internal error ({type(error).__name__}): the gateway's log has the details.")


def _ready(check: Callable[[], None]) -> str:
    check()
    return "ok"


def _describe_reaper(last_tick: datetime | None) -> str:
    if last_tick is None:
        raise Unavailable("The reaper has not finished a tick yet.")
    age = (datetime.now(UTC) - last_tick).total_seconds()
    if age > 2 * RECONCILE_SECONDS:
        raise Unavailable(f"The reaper has not ticked for {age:.0f} s; restart the gateway and read its log.")
    return f"ok: last tick {last_tick:%Y-%m-%dT%H:%M:%SZ}"
