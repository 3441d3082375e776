"""Settings that are valid one by one and make no sense together."""

import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gateway.domain.host_share import FLOOR_MEMORY, GIB
from gateway.settings.names import flag

if TYPE_CHECKING:
    from gateway.settings import Settings


class Contradiction(NamedTuple):
    """`between` names the settings, the one to change first; `problem` continues its name."""

    between: tuple[str, ...]
    problem: str


def contradictions(settings: "Settings") -> Iterator[Contradiction]:
    yield from _egress(settings)
    yield from _temporary_files(settings)
    yield from _ports(settings)
    yield from _private_files(settings)
    yield from _leases(settings)


def _egress(settings: "Settings") -> Iterator[Contradiction]:
    if settings.egress == "none" and settings.egress_hosts:
        yield Contradiction(
            ("egress_hosts", "egress"),
            "has no effect without --egress allowlist: set that as well, or leave the hosts out.",
        )
    if settings.egress == "allowlist" and not settings.egress_hosts:
        yield Contradiction(
            ("egress", "egress_hosts"),
            "allowlist needs hosts: set --egress-hosts, such as pypi.org:443,.pythonhosted.org:443.",
        )

    if settings.egress == "none" and settings.egress_private_subnets:
        yield Contradiction(
            ("egress_private_subnets", "egress"),
            "has no effect without --egress allowlist: set that as well, or leave the subnets out.",
        )
    for subnet in settings.egress_private_subnets:
        if ipaddress.ip_network(subnet).overlaps(ipaddress.ip_network(settings.subnet)):
            yield Contradiction(
                ("egress_private_subnets", "subnet"),
                f"{subnet} overlaps --subnet {settings.subnet}, where the sessions are: use other subnets.",
            )


def _temporary_files(settings: "Settings") -> Iterator[Contradiction]:
    """Temporary files are memory: a session that fills them above its limit is killed by the kernel."""
    tmp, shm, memory = settings.session_tmp, settings.session_shm, settings.session_memory
    smallest = FLOOR_MEMORY if memory is None else memory.bytes
    if tmp.bytes + shm.bytes > smallest:
        limit = memory or f"auto, which is {FLOOR_MEMORY // GIB}g for the smallest slice"
        yield Contradiction(
            ("session_tmp", "session_shm", "session_memory"),
            f"{tmp} and --session-shm {shm} are together more than --session-memory {limit}, so a user who "
            "fills /tmp ends the session: lower them, or set more memory.",
        )


def _ports(settings: "Settings") -> Iterator[Contradiction]:
    if settings.port == settings.ssh_port and not settings.listen.startswith("unix:"):
        yield Contradiction(
            ("port", "ssh_port", "listen"),
            f"{settings.port} is also --ssh-port: use two different ports.",
        )
    if not settings.listen.startswith("unix:") and ipaddress.ip_address(
        settings.listen
    ) in ipaddress.ip_network(settings.subnet):
        yield Contradiction(
            ("listen", "subnet"),
            f"{settings.listen} is an address of the sessions' network: use one outside --subnet.",
        )


def _leases(settings: "Settings") -> Iterator[Contradiction]:
    if settings.max_lease_minutes < settings.max_ttl_minutes:
        yield Contradiction(
            ("max_lease_minutes", "max_ttl_minutes"),
            f"{settings.max_lease_minutes} is less than --max-ttl-minutes {settings.max_ttl_minutes}: raise "
            "it, or lower the other.",
        )


def _private_files(settings: "Settings") -> Iterator[Contradiction]:
    """What only root may change, in a directory where each user has a directory of any name."""
    private = {
        "db": settings.db.path,
        "state_dir": settings.state_dir,
        "piper_config": settings.piper_config,
        "ssh_host_key": settings.ssh_host_key,
    }
    for name, path in private.items():
        if path is not None and _lies_in(path, settings.workspace_root):
            yield Contradiction(
                (name, "workspace_root"),
                f"{path} lies in {flag('workspace_root')} {settings.workspace_root}, where the users' "
                "directories are: use a path outside of it.",
            )


def _lies_in(path: Path, directory: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(directory))
