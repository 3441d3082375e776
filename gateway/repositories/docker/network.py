"""The sessions' network: closed to the outside, to each other, and to every address of the host.

Docker's own `internal` drops what goes outside and `enable_icc=false` what goes from session to
session, but both leave every service of the host open. A chain of our own drops that, on the way to
INPUT; connections that the host opens to a session are let through by their state.
"""

import ipaddress
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool

from gateway.errors import NetworkUnavailable
from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker, translated_errors
from gateway.repositories.docker.firewall import Chain

_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_LONGEST_INTERFACE_NAME = 15
_ICC = "com.docker.network.bridge.enable_icc"
_BRIDGE = "com.docker.network.bridge.name"


class Worknet:
    def __init__(self, docker: Docker, name: str, subnet: str) -> None:
        self._docker = docker
        self._name = name
        self._subnet = ipaddress.IPv4Network(subnet)
        self._bridge = bridge_name(name)
        drop = ("-i", self._bridge, "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP")
        self._chain = Chain(f"GATEWAY-{self._bridge}", "INPUT", (drop,))

    def ensure(self) -> None:
        """Make the network and the rules where they are missing; refuse a network of another kind."""
        with translated_errors():
            if self._inspect() is None:
                self._create()
        self._chain.ensure()
        self.check()

    def check(self) -> None:
        """Raises `NetworkUnavailable` that says which of the promises does not hold."""
        with translated_errors():
            found = self._inspect()
        if found is None:
            raise NetworkUnavailable(
                f"The Docker network {self._name!r} is missing; the gateway makes it when it starts."
            )
        if problem := self._problem(found):
            raise NetworkUnavailable(
                f"The Docker network {self._name!r} is not as it must be ({problem}); remove it with "
                f"`docker network rm {self._name}` and the gateway makes it anew."
            )
        if not self._chain.stands():
            raise NetworkUnavailable(
                f"The firewall chain {self._chain.name} is missing; the reaper sets it again within a minute."
            )
        if _BRIDGE_NETFILTER.exists() and _BRIDGE_NETFILTER.read_text().strip() != "1":
            raise NetworkUnavailable(
                "Sessions reach each other: run `sysctl -w net.bridge.bridge-nf-call-iptables=1`."
            )

    def remove(self) -> None:
        """Take away the network and the rules; for whoever takes the gateway off a machine."""
        with translated_errors():
            if self._inspect() is not None:
                self._docker.client.networks.get(self._name).remove()
        self._chain.remove()

    def _inspect(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._docker.client.api.inspect_network(self._name)
        except NotFound:
            return None
        return found

    def _create(self) -> None:
        gateway = str(self._subnet.network_address + 1)
        try:
            self._docker.client.networks.create(
                self._name,
                driver="bridge",
                internal=True,
                enable_ipv6=False,
                ipam=IPAMConfig(pool_configs=[IPAMPool(subnet=str(self._subnet), gateway=gateway)]),
                options={_ICC: "false", _BRIDGE: self._bridge},
                labels={labels.NETWORK: self._name},
            )
        except APIError as error:
            if error.status_code == 409:  # another worker made it in between
                return
            if "overlaps" in str(error.explanation):
                raise NetworkUnavailable(
                    f"The subnet {self._subnet} is in use by another network; choose one with --subnet."
                ) from error
            raise

    def _problem(self, found: dict[str, Any]) -> str | None:
        options = found.get("Options") or {}
        subnets = [config.get("Subnet") for config in found["IPAM"]["Config"] or []]
        if found.get("EnableIPv6"):
            return "it has IPv6, for which there are no rules"
        if not found["Internal"]:
            return "it reaches the outside"
        if options.get(_ICC) != "false":
            return "sessions reach each other"
        if options.get(_BRIDGE) != self._bridge:
            return f"its bridge is not {self._bridge}"
        if subnets != [str(self._subnet)]:
            return f"its subnet is {', '.join(map(str, subnets))}, not {self._subnet}"
        return None


def bridge_name(network: str) -> str:
    return network[:_LONGEST_INTERFACE_NAME]
