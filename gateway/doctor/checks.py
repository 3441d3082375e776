"""What else must be right on the gateway's host: the parts of /readyz, looked at without changing anything,
and what only somebody on the host can see."""

import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.app import Parts, leadership_of
from gateway.database_url import DatabaseUrl
from gateway.domain.mig import MigPolicy
from gateway.domain.occupancy import Occupancy
from gateway.errors import GatewayError, Unavailable
from gateway.repositories.sql import schema
from gateway.services import readiness
from gateway.services.ports import Check, Host, Leadership
from gateway.services.quota import WorkspaceQuota
from gateway.settings import Settings

_ENOUGH_GIB = 1


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    ok: bool
    says: str


def examine(settings: Settings, parts: Parts) -> list[Finding]:
    return [_find(name, check) for name, check in _checks(settings, parts).items()]


def _find(name: str, check: Check) -> Finding:
    try:
        return Finding(name, True, check())
    except GatewayError as error:
        return Finding(name, False, str(error))
    except OSError as error:
        return Finding(name, False, f"could not look: {error.strerror}: {error.filename}")


def _checks(settings: Settings, parts: Parts) -> Mapping[str, Check]:
    leadership = leadership_of(settings)
    quota = WorkspaceQuota(parts.host, settings.workspace_quota_bytes)
    ready = dict(readiness.checks(parts.database, parts.host, parts.pipes, quota, leadership.last_tick))
    del ready["pipes"]  # it tries to write; the comparison reads them
    tick = ready.pop("reaper")
    policy = MigPolicy(settings.mig_policy)
    return {
        "schema": lambda: _schema(settings.db),
        **ready,
        "mig": lambda: _mig_modes(parts.host, policy),
        "reaper": lambda: f"{tick()}, {_leader(leadership)}",
        "permissions": lambda: _permissions(settings),
        "disks": lambda: _disks(settings),
    }


def _schema(db: DatabaseUrl) -> str:
    schema.require_current(db)
    return "ok"


def _mig_modes(host: Host, policy: MigPolicy) -> str:
    gpus = host.list_gpus()
    Occupancy(gpus, (), {}, policy).offered(None)  # raises what keeps all of them from being used
    return "ok: " + ", ".join(f"GPU {gpu.index} {gpu.mig_mode}" for gpu in gpus)


def _leader(leadership: Leadership) -> str:
    leader = leadership.leader()
    if leader is None:
        raise Unavailable("Nobody leads: no gateway runs over this database; start it with `gateway serve`.")
    return f"led by {leader}"


def _permissions(settings: Settings) -> str:
    problems = list(_open_to_others(settings))
    if problems:
        more = f" (and {len(problems) - 1} more)" if problems[1:] else ""
        raise Unavailable(f"{problems[0]}{more}")
    return "ok"


def _open_to_others(settings: Settings) -> Iterator[str]:
    pipe_file = settings.piper_config
    secret = [pipe_file, settings.entry_host_key.with_suffix("")]
    if database := settings.db.path:
        secret += [database.with_name(database.name + ending) for ending in ("", "-wal", "-shm")]
        secret += database.parent.glob(f"{database.name}.*.backup")
    for path in secret:
        if path.exists() and path.stat().st_mode & 0o077:
            yield f"{path} is open to others: chmod 600 {path}"
    for path in (settings.state_dir, pipe_file.parent, settings.workspace_root):
        if path.exists() and path.stat().st_mode & 0o022:
            yield f"{path} can be written to by others: chmod go-w {path}"
    for home in settings.workspace_root.glob("*"):
        found = home.lstat()
        if not stat.S_ISDIR(found.st_mode):
            yield f"{home} is no directory; workspaces alone belong there."
        elif found.st_mode & 0o077:
            yield f"{home} is open to others: chmod 700 {home}"


def _disks(settings: Settings) -> str:
    """Free space where the gateway writes, in GiB, one each filesystem."""
    places = {"state": settings.state_dir, "pipe file": settings.piper_config.parent}
    places["workspaces"] = settings.workspace_root
    free = {name: shutil.disk_usage(path).free / 2**30 for name, path in places.items()}
    told = ", ".join(f"{name} {gib:.1f} GiB free" for name, gib in free.items())
    if min(free.values()) < _ENOUGH_GIB:
        raise Unavailable(f"A disk is nearly full: {told}.")
    return f"ok: {told}"
