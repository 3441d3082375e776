"""The resource limits and the writable directories of a session, as options of Docker."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from docker.types import Ulimit
from docker.utils import parse_bytes

from gateway.domain.host_share import GIB, Machine

# The host's core_pattern may name a program. With an RLIMIT_CORE of 0 the kernel starts this program, as root
# on the host, for each crash in a session. With 1 it does not (core(5), fs/coredump.c).
_NO_CORE_DUMPS = 1
# In cgroup v1, TCP buffers are not part of the memory limit: a session can have a 16th more for them.
_TCP_SHARE, _LEAST_TCP_BYTES = 16, 2**24
# The default of nr_inodes is half of the machine's memory pages. exec: builds in /tmp run programs there.
_TMPFS = "rw,nosuid,nodev,mode=1777,nr_inodes=100k"


def this_machine() -> Machine:
    return Machine(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), os.cpu_count() or 1)


def tcp_bytes(memory_bytes: int) -> int:
    """The limit of TCP buffers, in cgroup v1, of a session with this memory."""
    return max(memory_bytes // _TCP_SHARE, _LEAST_TCP_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes are in Docker's notation, such as `512m`; `cpus`, `pids` and `open_files` are numbers. `memory`
    and `cpus` follow the slice if they are None: `of_slice` returns the limits of one session.

    `shm` and `tmp`, the sizes of /dev/shm and of /tmp and /var/tmp, count against `memory`. `io` is the limit
    of reading and of writing on the disk of the workspace, `bandwidth` that of each direction of the network:
    both in bytes a second.
    """

    memory: str | None
    cpus: float | None
    pids: int
    open_files: int
    shm: str
    tmp: str
    read_only_root: bool
    io: int | None = None
    bandwidth: int | None = None
    machine: Machine = field(default_factory=this_machine)

    def of_slice(self, host_share: float) -> "SessionLimits":
        """Return the limits of a session whose slice has this share of the host's memory slices."""
        memory = parse_bytes(self.memory) if self.memory else self.machine.memory_of(host_share)
        cpus = self.machine.cpus_of(host_share) if self.cpus is None else self.cpus
        return SessionLimits(self, int(memory), cpus)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The limits of one session."""

    common: Limits
    memory_bytes: int
    cpus: float

    def __str__(self) -> str:
        return f"{self.memory_bytes / GIB:.3g} GiB, {self.cpus:g} {'CPU' if self.cpus == 1 else 'CPUs'}"

    @property
    def tcp_bytes(self) -> int:
        """The limit of TCP buffers in cgroup v1."""
        return tcp_bytes(self.memory_bytes)

    def docker_options(self, volumes: Iterable[str] = (), disk: str | None = None) -> dict[str, Any]:
        """Return options for `create_host_config`; each of `volumes` becomes a tmpfs like /tmp. `disk` is the
        device to which `io` applies."""
        common = self.common
        scratch = f"{_TMPFS},exec,size={common.tmp}"
        rates = [{"Path": disk, "Rate": common.io}] if disk and common.io else None
        return {
            "device_read_bps": rates,
            "device_write_bps": rates,
            "mem_limit": self.memory_bytes,
            "memswap_limit": self.memory_bytes,  # memory and swap together: no swap
            "nano_cpus": int(self.cpus * 1e9),
            "pids_limit": common.pids,
            "ulimits": [
                Ulimit(name="nofile", soft=common.open_files, hard=common.open_files),
                Ulimit(name="core", soft=_NO_CORE_DUMPS, hard=_NO_CORE_DUMPS),
            ],
            "read_only": common.read_only_root,
            "tmpfs": {
                **dict.fromkeys(volumes, scratch),
                "/tmp": scratch,
                "/var/tmp": scratch,
                "/dev/shm": f"{_TMPFS},noexec,size={common.shm}",
            },
        }
