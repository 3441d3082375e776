"""The quota of each workspace, and who enforces it: the file system, or the gateway by measuring."""

from dataclasses import dataclass

from gateway.domain.disk import gib
from gateway.services.ports import Host


@dataclass(frozen=True)
class WorkspaceQuota:
    """`size` is the limit of each workspace, in bytes; None: no limit."""

    host: Host
    size: int | None

    def watched(self) -> int | None:
        """Return the quota, in bytes, that the gateway must enforce by measuring; None if there is none."""
        return None if self.size is None or self.host.has_quotas() else self.size

    def describe(self) -> str:
        """Return one line on the kind of quota that is in force."""
        if self.size is None:
            return "ok: no quota"
        if self.host.has_quotas():
            return f"ok: at most {gib(self.size)} each, kept by the file system"
        return (
            f"ok: at most {gib(self.size)} each, watched, for the file system has no user quotas in force: "
            "a user above it gets no new session"
        )
