"""A time limit for the disk of the workspaces: a network file system whose server is down hangs."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from gateway.errors import WorkspaceRefused
from gateway.repositories import host_parts
from gateway.repositories.time_limit import TimeLimit

SECONDS = 10.0
_AT_ONCE = 16


class TimeLimitedWorkspaces:
    """Calls `workspaces`, and raises `WorkspaceRefused` after `seconds`. Only measuring may take longer."""

    def __init__(self, workspaces: host_parts.Workspaces, seconds: float = SECONDS) -> None:
        self._workspaces = workspaces
        late = partial(
            WorkspaceRefused,
            f"The disk of the workspaces did not answer within {seconds:g} s; see whether its server works, "
            "and dmesg.",
        )
        self._in_time = TimeLimit("workspaces", seconds, _AT_ONCE, late, late)

    def ensure(self, user_id: str, uid: int) -> Path:
        return self._in_time(partial(self._workspaces.ensure, user_id, uid))

    def owners(self) -> Mapping[str, int]:
        return self._in_time(self._workspaces.owners)

    def check(self) -> Sequence[str]:
        return self._in_time(self._workspaces.check)

    def has_quotas(self) -> bool:
        return self._in_time(self._workspaces.has_quotas)

    def used(self, user_id: str) -> int:
        return self._workspaces.used(user_id)
