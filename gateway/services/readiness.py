"""One check for each part that sessions need. A check returns one line, or raises an error."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from gateway.errors import Unavailable
from gateway.services.ports import Check, Database, Host, Pipes
from gateway.services.quota import WorkspaceQuota

RECONCILE_SECONDS = 60.0


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
