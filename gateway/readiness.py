"""Whether every part that a session needs is there: a check a part, each a line or an error."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from gateway.disk_use import DiskUse
from gateway.errors import Unavailable
from gateway.host import Host
from gateway.ports import Database, Pipes
from gateway.reaper import RECONCILE_SECONDS

Check = Callable[[], str]  # a line about the part; raises GatewayError when it is not ready


def checks(
    database: Database,
    host: Host,
    pipes: Pipes,
    disk_use: DiskUse,
    last_tick: Callable[[], datetime | None],
) -> Mapping[str, Check]:
    return {
        "database": _ok(database.check),
        "docker": _ok(host.containers.check),
        "image": _ok(host.containers.check_image),
        "network": _ok(host.network.check),
        "egress": host.egress.describe,
        "gpus": lambda: _describe_gpus(host),
        "pipes": _ok(pipes.check),
        "workspaces": disk_use.describe,
        "reaper": lambda: _describe_reaper(last_tick()),
    }


def _ok(check: Callable[[], None]) -> Check:
    return lambda: check() or "ok"  # type: ignore[func-returns-value]


def _describe_gpus(host: Host) -> str:
    host.gpus.check()
    found = host.list_gpus()
    faults = [f"GPU {gpu.index} {gpu.fault}" for gpu in found if gpu.fault]
    simulated = ", simulated" if any(gpu.simulated for gpu in found) else ""
    return "; ".join([f"ok: {len(found)} GPUs{simulated}", *faults])


def _describe_reaper(last_tick: datetime | None) -> str:
    if last_tick is None:
        raise Unavailable("The reaper has not looked yet.")
    age = (datetime.now(UTC) - last_tick).total_seconds()
    if age > 2 * RECONCILE_SECONDS:
        raise Unavailable(f"The reaper has not looked for {age:.0f} s; restart the gateway and read its log.")
    return f"ok: last tick {last_tick:%Y-%m-%dT%H:%M:%SZ}"
