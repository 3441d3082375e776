"""What a session may take of the machine, and what it may write to, in Docker's own names."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from docker.types import Ulimit

# RLIMIT_CORE of 1, not 0: with the host's core_pattern a program, 0 still has the kernel start it, as root
# and outside, for each crash in a session; 1 is the value that keeps it from that (core(5), fs/coredump.c).
_NO_CORE_DUMPS = 1
# Without a number of inodes it is half of the machine's pages; builds in /tmp run programs from there.
_TMPFS = "rw,nosuid,nodev,mode=1777,nr_inodes=100k"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes are as Docker writes them, such as `512m`; `cpus` in CPUs, `pids` and `open_files` in numbers.

    `shm` and `tmp`, the sizes of /dev/shm and of /tmp and /var/tmp, count against `memory`.
    """

    memory: str
    cpus: float
    pids: int
    open_files: int
    shm: str
    tmp: str
    read_only_root: bool

    def docker_options(self, volumes: Iterable[str] = ()) -> dict[str, Any]:
        """Arguments for `containers.create`. Each of `volumes` becomes a temporary directory like /tmp."""
        scratch = f"{_TMPFS},exec,size={self.tmp}"
        return {
            "mem_limit": self.memory,
            "memswap_limit": self.memory,  # of both together: no swap
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
