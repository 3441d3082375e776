"""Checks of the gateway's host: the parts of /readyz, and what only a process on the host can see.

No check changes anything.
"""

import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gateway.app import Parts, leadership_of
from gateway.database_url import DatabaseUrl
from gateway.domain.mig import MigPolicy
from gateway.domain.occupancy import Occupancy
from gateway.errors import GatewayError, Unavailable
from gateway.repositories.files.workspace_root import MARKER
from gateway.repositories.sql import schema
from gateway.services import readiness
from gateway.services.ports import Check, Host, Leadership
from gateway.services.quota import WorkspaceQuota
from gateway.settings import Settings

_MIN_FREE_GIB = 1
_OF_A_SERVER = ("mig", "permissions", "disks")  # checks of this machine's GPUs and files


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`detail` is one line: the state of the part, or what is wrong with it."""

    name: str
    ok: bool
    detail: str


def examine(settings: Settings, parts: Parts) -> list[CheckResult]:
    """Run every check."""
    return [_run(name, check) for name, check in _checks(settings, parts).items()]


def _run(name: str, check: Check) -> CheckResult:
    try:
        return CheckResult(name, True, check())
    except GatewayError as error:
        return CheckResult(name, False, str(error))
    except OSError as error:
        return CheckResult(name, False, f"{error.filename} cannot be read: {error.strerror}")


def _checks(settings: Settings, parts: Parts) -> Mapping[str, Check]:
    leadership = leadership_of(settings)
    quota = WorkspaceQuota(parts.host, settings.workspace_quota_bytes)
    ready = dict(readiness.checks(parts.database, parts.host, parts.pipes, quota, leadership.last_tick))
    del ready["pipes"]  # this check tries to write; the comparison reads the pipes
    tick = ready.pop("reaper")
    policy = MigPolicy(settings.mig_policy)
    checks: Mapping[str, Check] = {
        "schema": lambda: _schema(settings.db),
        **ready,
        "mig": lambda: _mig_modes(parts.host, policy),
        "reaper": lambda: f"{tick()}, {_leader(leadership)}",
        "permissions": lambda: _permissions(settings),
        "uids": lambda: _uids(parts),
        "disks": lambda: _disks(settings),
        **parts.host.examinations(),
    }
    left_out = _OF_A_SERVER if settings.is_cluster else ()
    return {name: check for name, check in checks.items() if name not in left_out}


def _schema(db: DatabaseUrl) -> str:
    schema.require_current(db)
    return "ok"


def _mig_modes(host: Host, policy: MigPolicy) -> str:
    gpus = host.list_gpus()
    Occupancy(gpus, (), {}, policy).offered(None)  # raises an error if no GPU can be used
    return "ok: " + ", ".join(
        f"GPU {gpu.index} {'leased whole' if gpu.is_whole else gpu.mig_mode}" for gpu in gpus
    )


def _leader(leadership: Leadership) -> str:
    leader = leadership.leader()
    if leader is None:
        raise Unavailable("No gateway runs with this database: start one with `gateway serve`.")
    return f"the leader is {leader}"


def _permissions(settings: Settings) -> str:
    return _ok_unless(_permission_problems(settings))


def _ok_unless(problems: Iterator[str]) -> str:
    """Raise `Unavailable` with the first problem and the number of the others."""
    found = list(problems)
    if found:
        more = f" (and {len(found) - 1} more)" if found[1:] else ""
        raise Unavailable(f"{found[0]}{more}")
    return "ok"


def _permission_problems(settings: Settings) -> Iterator[str]:
    pipe_file = settings.piper_config
    secret = [pipe_file, *(key.with_suffix("") for key in settings.entry_host_keys)]
    if database := settings.db.path:
        secret += [database.with_name(database.name + ending) for ending in ("", "-wal", "-shm")]
        secret += database.parent.glob(f"{database.name}.*.backup")
    for path in secret:
        if path.exists() and path.stat().st_mode & 0o077:
            yield f"Other users can read {path}: chmod 600 {path}"
    for path in (settings.state_dir, pipe_file.parent, settings.workspace_root):
        if path.exists() and path.stat().st_mode & 0o022:
            yield f"Other users can write to {path}: chmod go-w {path}"
    for home in settings.workspace_root.glob("*"):
        if home.name == MARKER:
            continue
        found = home.lstat()
        if not stat.S_ISDIR(found.st_mode):
            yield f"{home} is not a directory: move it elsewhere, only workspaces belong here."
        elif found.st_mode & 0o077:
            yield f"Other users can read {home}: chmod 700 {home}"


def _uids(parts: Parts) -> str:
    return _ok_unless(_uid_problems(parts))


def _uid_problems(parts: Parts) -> Iterator[str]:
    with parts.database.read() as rows:
        uids = rows.uids()
    for user_id, uid in uids.items():
        if account := parts.host.account_of(uid):
            yield (
                f"uid {uid} of {user_id} is also {account}'s on this host, so each can signal and trace the "
                f"other's processes: give {account} another uid."
            )
    for user_id, owner in parts.host.workspace_owners().items():
        if uids.get(user_id, owner) != owner:
            yield (
                f"{user_id}'s workspace belongs to uid {owner}, but {user_id} has {uids[user_id]}: chown it, "
                "or move it away."
            )


def _disks(settings: Settings) -> str:
    """Return the free space in GiB of each place where the gateway writes."""
    places = {"state": settings.state_dir, "pipe file": settings.piper_config.parent}
    places["workspaces"] = settings.workspace_root
    free = {name: shutil.disk_usage(path).free / 2**30 for name, path in places.items()}
    detail = ", ".join(f"{name} {gib:.1f} GiB free" for name, gib in free.items())
    if min(free.values()) < _MIN_FREE_GIB:
        raise Unavailable(f"A disk is nearly full: {detail}.")
    return f"ok: {detail}"
