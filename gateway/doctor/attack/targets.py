"""The targets of attacks from inside a session on this host, from the kernel and the settings."""

import ipaddress
import re
from pathlib import Path

from gateway.doctor.attack.probe import Targets
from gateway.domain.addresses import proxy
from gateway.domain.plan import SSH_PORT
from gateway.repositories.docker.limits import tcp_bytes
from gateway.settings import Settings

_COMMON_PORTS = {22, 53, 80, 111, 443, 2375, 2376}
_MAX_PORTS = 48
_CGROUP_V2 = Path("/sys/fs/cgroup/cgroup.controllers")
_MORE_TCP_MIB = 64
_LISTENING = "0A"  # include/net/tcp_states.h


def targets(
    settings: Settings, victim: str, victim_session: str, victim_address: str, memory_bytes: int
) -> Targets:
    """Return the targets. Each limit is exceeded by a margin, so that the attempt reaches it. `memory_bytes`
    is the attacker's memory limit."""
    addresses = host_addresses(Path("/proc/net"))
    required = {*_COMMON_PORTS, SSH_PORT, settings.port, settings.ssh_port}
    others = listening_ports(Path("/proc/net")) - required
    return Targets(
        ssh_port=SSH_PORT,
        proxies=[proxy(ipaddress.IPv4Network(settings.subnet))] if settings.open_hosts else [],
        neighbours=[victim_address],
        neighbour_names=[f"{victim}-container", f"{victim}-gpu"],
        neighbour_sessions=[victim_session],
        users=[victim],
        hosts=[address for address in addresses if not address.startswith("fe80")],
        links=[address for address in addresses if address.startswith("fe80")],
        ports=[*sorted(required), *sorted(others)][:_MAX_PORTS],
        memory_mib=round(1.25 * memory_bytes / 2**20),
        tcp_mib=0 if _CGROUP_V2.exists() else tcp_bytes(memory_bytes) // 2**20 + _MORE_TCP_MIB,
        filler_mib=filler_mib(settings),
        processes=settings.session_pids + 1000,
        files=110_000,
    )


def filler_mib(settings: Settings) -> int:
    """Return twice the MiB of the larger one of /tmp and /dev/shm, so that a file of this size fills each."""
    return 2 * max(1, settings.session_tmp.bytes // 2**20, settings.session_shm.bytes // 2**20)


def host_addresses(net: Path) -> list[str]:
    """Return the host's addresses except loopback's. `net` is /proc/net."""
    local = re.findall(r"\|-- (\S+)\n +/32 host LOCAL", _text(net / "fib_trie"))
    local += [str(ipaddress.IPv6Address(int(line[:32], 16))) for line in _text(net / "if_inet6").splitlines()]
    return sorted({address for address in local if not ipaddress.ip_address(address).is_loopback})


def listening_ports(net: Path) -> set[int]:
    """Return the TCP ports on which a program of the host listens."""
    lines = [line.split() for name in ("tcp", "tcp6") for line in _text(net / name).splitlines()[1:]]
    return {int(fields[1].rpartition(":")[2], 16) for fields in lines if fields[3] == _LISTENING}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""  # a host without IPv6 lacks its files
