"""Settings that are valid one by one and make no sense together."""

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import fields
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


# Settings of one server's Docker, driver and disks, which a cluster decides in its own way.
_OF_A_SERVER = {
    "simulate_gpus": "the cluster's DRA driver publishes the GPUs",
    "mig_policy": "the cluster's DRA driver makes the slices",
    "whole_gpus": "sessions on a cluster get slices alone",
    "dcgm_exporter": "the gateway does not measure slices on a cluster",
    "piper_config": "the routes are Pipes, which `gateway mirror-pipes` writes into a pipe file",
    "workspace_root": "a home is a volume claim",
    "network": "NetworkPolicies isolate the sessions",
    "subnet": "the cluster's network gives the addresses",
    "allow_weaker": "the isolation is the nodes' own",
    "session_memory": "--memory-per-slice decides",
    "session_pids": "the kubelet's podPidsLimit decides",
    "session_open_files": "the container runtime decides",
    "session_io": "Kubernetes has no such limit",
    "session_bandwidth": "Kubernetes has no such limit",
}
_OF_A_CLUSTER = (
    "namespace_sessions",
    "namespace_routes",
    "storage_class",
    "volume_access",
    "device_class_prefix",
    "memory_per_slice",
    "lease_service",
    "egress_service",
    "advice",
)


def contradictions(settings: "Settings") -> Iterator[Contradiction]:
    yield from _site(settings)
    yield from _egress(settings)
    yield from _temporary_files(settings)
    yield from _ports(settings)
    yield from _private_files(settings)
    yield from _leases(settings)


def _site(settings: "Settings") -> Iterator[Contradiction]:
    changed = {each.name for each in fields(settings) if getattr(settings, each.name) != each.default}
    if not settings.is_cluster:
        for name in _OF_A_CLUSTER:
            # Commands for the routers of a cluster read its namespaces and have no site.
            if name in changed and name != "namespace_routes":
                problem = "has no effect without --site kubernetes: set that as well, or leave it out."
                yield Contradiction((name, "site"), problem)
        return
    for name, reason in _OF_A_SERVER.items():
        if name in changed:
            yield Contradiction((name, "site"), f"has no effect with --site kubernetes: {reason}.")
    if settings.db.path is not None:
        yield Contradiction(
            ("db", "site"), "--site kubernetes needs PostgreSQL: use a URL such as postgresql://HOST/gateway."
        )
    if settings.workspace_quota is None:
        yield Contradiction(
            ("workspace_quota", "site"), "--site kubernetes needs the size of a home: use one such as 200g."
        )


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
    if settings.is_cluster and settings.egress == "allowlist" and not settings.egress_service:
        yield Contradiction(
            ("egress", "egress_service"),
            "allowlist needs the Service of a proxy: set --egress-service, such as gpu-egress/egress-proxy.",
        )
    if settings.egress == "none" and settings.egress_service:
        yield Contradiction(
            ("egress_service", "egress"),
            "has no effect without --egress allowlist: set that as well, or leave the Service out.",
        )
    if settings.egress == "none" and settings.egress_private_subnets:
        yield Contradiction(
            ("egress_private_subnets", "egress"),
            "has no effect without --egress allowlist: set that as well, or leave the subnets out.",
        )
    for subnet in () if settings.is_cluster else settings.egress_private_subnets:
        if ipaddress.ip_network(subnet).overlaps(ipaddress.ip_network(settings.subnet)):
            yield Contradiction(
                ("egress_private_subnets", "subnet"),
                f"{subnet} overlaps --subnet {settings.subnet}, where the sessions are: use other subnets.",
            )


def _temporary_files(settings: "Settings") -> Iterator[Contradiction]:
    """Temporary files are memory: a session that fills them above its limit is killed by the kernel."""
    if settings.is_cluster:
        yield from _temporary_files_of_pods(settings)
        return
    tmp, shm, memory = settings.session_tmp, settings.session_shm, settings.session_memory
    smallest = FLOOR_MEMORY if memory is None else memory.bytes
    if tmp.bytes + shm.bytes > smallest:
        limit = memory or f"auto, which is {FLOOR_MEMORY // GIB}g for the smallest slice"
        yield Contradiction(
            ("session_tmp", "session_shm", "session_memory"),
            f"{tmp} and --session-shm {shm} are together more than --session-memory {limit}, so a user who "
            "fills /tmp ends the session: lower them, or set more memory.",
        )


def _temporary_files_of_pods(settings: "Settings") -> Iterator[Contradiction]:
    """/tmp, /var/tmp and /dev/shm are memory of the pod."""
    tmp, shm, memory = settings.session_tmp, settings.session_shm, settings.memory_per_slice
    if 2 * tmp.bytes + shm.bytes > memory.bytes:
        yield Contradiction(
            ("memory_per_slice", "session_tmp", "session_shm", "site"),
            f"{memory} is less than twice --session-tmp {tmp} and --session-shm {shm} together, so a user "
            "who fills /tmp ends the session: raise it, or lower them.",
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
