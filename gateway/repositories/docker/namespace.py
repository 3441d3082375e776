"""The network namespace of a session, and the gateway's rules in it.

These rules do not depend on the host's rules. The session's user has no capability and cannot change them.

Docker's resolver, 127.0.0.11, listens inside the namespace, so only rules in the namespace can close it. It
resolves the names of all containers of the network, and dockerd allocates memory for each query.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from gateway.domain.addresses import PROXY_PORT, proxy_address
from gateway.domain.plan import SSH_PORT
from gateway.errors import ContainerFailed, NetworkUnavailable
from gateway.repositories.docker.firewall import Ruleset, run, stderr_of

# Outgoing packets are rejected, so that programs fail at once. Incoming packets are dropped.
_TABLES = """\
table inet gateway {{
    chain input {{
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
{limit}\
        ct state established,related accept
        ip saddr {host} accept
    }}
    chain output {{
        type filter hook output priority filter; policy drop;
        ip daddr 127.0.0.11 reject
        oifname "lo" accept
{limit}\
        ct state established,related accept
        ip daddr {proxy} tcp dport {port} accept
        reject with icmpx type admin-prohibited
    }}
}}
table arp gateway {{
    chain input {{
        type filter hook input priority filter; policy drop;
        arp saddr ip {{ {host}, {proxy} }} accept
    }}
    chain output {{
        type filter hook output priority filter; policy drop;
        arp daddr ip {{ {host}, {proxy} }} accept
    }}
}}
"""
# What is above the limit is dropped, and TCP slows down. The kernel adds the rate of one second to the burst,
# which must hold packets of 64 KiB.
_LIMIT = """\
        limit rate over {rate} bytes/second burst 262144 bytes drop
"""


class Namespace:
    """The namespace of a running container, from Docker's inspection `found` and the network's name.
    `bandwidth` limits each direction, in bytes a second.

    Raises `NetworkUnavailable` if the gateway cannot enter the namespace, if the container does not run, and
    if it is not connected to the network.
    """

    def __init__(self, found: Mapping[str, Any], network: str, bandwidth: int | None = None) -> None:
        self._path = str(found["NetworkSettings"]["SandboxKey"])
        self._endpoint = found["NetworkSettings"]["Networks"].get(network) or {}
        self._limit = _LIMIT.format(rate=bandwidth) if bandwidth else ""
        if not self._path:  # nsenter would take an empty path for the host's namespace
            raise NetworkUnavailable("The session's container has no network namespace: it does not run.")

    def is_closed(self) -> bool:
        """Whether the namespace has all of the gateway's rules."""
        return self._rules().is_loaded(self._path)

    def close(self, *, is_new: bool = False) -> None:
        """Load the gateway's rules; `is_new` as in `Ruleset.load`."""
        self._rules().load(self._path, is_new=is_new)

    def disconnect(self) -> None:
        """Close the connections to the container's sshd, also if all of its processes are stopped.

        Raises `ContainerFailed` if connections are left, as on a kernel without CONFIG_INET_DIAG_DESTROY.
        """
        connections = ["state", "established", "sport", "=", f":{SSH_PORT}"]
        self._ss("--kill", *connections)
        if self._ss(*connections):
            raise ContainerFailed("The session's connections cannot be closed: delete it to end them.")

    def _ss(self, *arguments: str) -> str:
        done = run(["ss", "--no-header", "--numeric", "--tcp", *arguments], namespace=self._path)
        if done.returncode:
            raise NetworkUnavailable(f"ss cannot list the session's connections: {stderr_of(done)}")
        return done.stdout

    def _rules(self) -> Ruleset:
        if not self._endpoint.get("IPAddress"):
            raise NetworkUnavailable("The session's container is not connected to its network.")
        address = f"{self._endpoint['IPAddress']}/{self._endpoint['IPPrefixLen']}"
        subnet = ipaddress.IPv4Interface(address).network
        host, proxy = subnet.network_address + 1, proxy_address(subnet)
        text = _TABLES.format(host=host, proxy=proxy, port=PROXY_PORT, limit=self._limit)
        return Ruleset("gateway", text)
