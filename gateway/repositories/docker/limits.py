"""The resource limits and the writable directories of a session, as options of Docker."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from docker.types import Ulimit
from docker.utils import parse_bytes

# The host's core_pattern may name a program. With an RLIMIT_CORE of 0 the kernel starts this program, as root
# on the host, for each crash in a session. With 1 it does not (core(5), fs/coredump.c).
_NO_CORE_DUMPS = 1
# The default of nr_inodes is half of the machine's memory pages. exec: builds in /tmp run programs there.
# In cgroup v1, TCP buffers are not part of the memory limit: a session can have a 16th more for them.
_TCP_SHARE, _LEAST_TCP_BYTES = 16, 2**24
_TMPFS = "rw,nosuid,nodev,mode=1777,nr_inodes=100k"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes are in Docker's notation, such as `512m`; `cpus`, `pids` and `open_files` are numbers.

    `shm` and `tmp`, the sizes of /dev/shm and of /tmp and /var/tmp, count against `memory`. `io` is the limit
    of reading and of writing on the disk of the workspace, `bandwidth` that of each direction of the network:
    both in bytes a second.
    """

    memory: str
    cpus: float
    pids: int
    open_files: int
    shm: str
    tmp: str
    read_only_root: bool
    io: int | None = None
    bandwidth: int | None = None

    @property
    def tcp_bytes(self) -> int:
        """The limit of TCP buffers in cgroup v1."""
        return max(int(parse_bytes(self.memory)) // _TCP_SHARE, _LEAST_TCP_BYTES)

    def docker_options(self, volumes: Iterable[str] = (), disk: str | None = None) -> dict[str, Any]:
        """Return options for `create_host_config`; each of `volumes` becomes a tmpfs like /tmp. `disk` is the
        device to which `io` applies."""
        scratch = f"{_TMPFS},exec,size={self.tmp}"
        rates = [{"Path": disk, "Rate": self.io}] if disk and self.io else None
        return {
            "device_read_bps": rates,
            "device_write_bps": rates,
            "mem_limit": self.memory,
            "memswap_limit": self.memory,  # memory and swap together: no swap
            "nano_cpus": int(self.cpus * 1e9),
            "pids_limit": self.pids,
            "ulimits": [
                Ulimit(name="nofile", soft=self.open_files, hard=self.open_files),
                Ulimit(name="core", soft=_NO_CORE_DUMPS, hard=_NO_CORE_DUMPS),
            ],
            "read_only": self.read_only_root,
            "tmpfs": {
                **dict.fromkeys(volumes, scratch),
                "/tmp": scratch,
                "/var/tmp": scratch,
                "/dev/shm": f"{_TMPFS},noexec,size={self.shm}",
            },
        }
