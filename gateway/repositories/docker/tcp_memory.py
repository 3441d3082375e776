"""The memory of a session's TCP and UDP buffers.

cgroup v2 counts these buffers as memory of the session. cgroup v1 does not: it has another limit for them,
which Docker cannot set. There, the gateway sets that limit itself.
"""

import logging
from pathlib import Path

log = logging.getLogger(__name__)

_ROOT = Path("/sys/fs/cgroup/memory")  # of cgroup v1
_LIMIT = "memory.kmem.tcp.limit_in_bytes"
# By Docker's driver cgroupfs and by its driver systemd; below another parent if the daemon has one.
_GROUPS = ("*/{id}", "*/docker-{id}.scope", "*/*/{id}", "*/*/docker-{id}.scope")


class TcpMemory:
    """`root` is the root of cgroup v1's memory controller."""

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root

    def limit(self, container_id: str, limit_bytes: int) -> None:
        """Set the limit of a session, if this host needs it. Sockets that exist already are not counted.

        If that is not possible, the session runs without this limit, and `weakness` says so.
        """
        if self._counts_as_memory():
            return
        patterns = (pattern.format(id=container_id) for pattern in _GROUPS)
        group = next((found for pattern in patterns for found in self._root.glob(pattern)), None)
        try:
            if group is None:
                raise FileNotFoundError(2, "no such control group", container_id)
            (group / _LIMIT).write_text(str(limit_bytes))
        except OSError as error:
            log.warning(
                "the TCP buffers of a session are not limited",
                extra={"container_id": container_id, "error": str(error)},
            )

    def weakness(self) -> str | None:
        """Return why the gateway cannot limit these buffers; None if they are limited."""
        if self._counts_as_memory():
            return None
        try:
            with open(self._root / _LIMIT, "r+b"):
                return None
        except OSError as error:
            problem = (error.strerror or "").lower()
        return (
            "cgroup v1 does not count TCP buffers as memory of a session, and the gateway cannot limit them "
            f"({problem}): use cgroup v2, or docker/compose.cgroup-v1.yaml with compose"
        )

    def _counts_as_memory(self) -> bool:
        return not self._root.is_dir()
