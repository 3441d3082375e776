"""The sessions' network. Sessions cannot connect over it to each other, to the host or to the outside.

Docker's own settings (`internal`, `enable_icc=false`) close part of it, by rules that depend on its iptables.
The gateway's nftables tables close all of it, and real test packets check their effect.
"""

import ipaddress
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from docker.types import IPAMConfig, IPAMPool

from gateway.domain.addresses import overlap
from gateway.errors import NetworkOpen, NetworkUnavailable
from gateway.repositories.docker import bridge_rules, labels, subnets
from gateway.repositories.docker.client import Docker, translated_errors
from gateway.repositories.docker.firewall import Ruleset, generation
from gateway.repositories.docker.proof import Proof

_BRIDGE_NETFILTER = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_LONGEST_INTERFACE_NAME = 15
_ICC = "com.docker.network.bridge.enable_icc"
_BRIDGE = "com.docker.network.bridge.name"
_AVOID_SECONDS = 600.0


def _only_root() -> Collection[int]:
    return (0,)


class Worknet:
    """`router_uids`: the users of the host whose processes may connect to sessions."""

    def __init__(
        self,
        docker: Docker,
        name: str,
        subnet: str,
        *,
        router_uids: Callable[[], Collection[int]] = _only_root,
    ) -> None:
        self._docker = docker
        self._name = name
        self._subnet = ipaddress.IPv4Network(subnet)
        self._bridge = bridge_name(name)
        self._router_uids = router_uids
        self._refused: dict[str, float] = {}
        self._complete: tuple[str, int | None] = "", None
        self._proof = Proof(self._bridge, self._subnet)

    def ensure(self) -> Collection[str]:
        """Create the network and load the tables if they are missing, then do the same as `check`.

        Returns the addresses that no session can have: a container has them, or Docker refused them in the
        last ten minutes.
        """
        with translated_errors():
            found = self._inspect() or self._create()
        rules = self._rules()
        if not self._is_loaded(rules):
            rules.load()
        return {*self._examine(found), *self._avoided()}

    def check(self) -> None:
        """Raises `NetworkUnavailable` with the first fault, and `NetworkOpen` if sessions may have
        connections that they must not have."""
        with translated_errors():
            found = self._inspect()
        if found is None:
            raise NetworkUnavailable(
                f"The Docker network {self._name!r} is missing: the gateway creates it within a minute."
            )
        self._examine(found)

    def require_free_subnet(self) -> None:
        """Raises `NetworkUnavailable` when the network does not exist yet and its subnet is in use."""
        with translated_errors():
            if self._inspect() is None:
                self._refuse_overlap(self._others())

    def avoid(self, address: str) -> None:
        """Do not assign `address` for ten minutes: Docker can reserve an address that no container has."""
        self._refused[address] = time.monotonic() + _AVOID_SECONDS

    def _avoided(self) -> Iterator[str]:
        now = time.monotonic()
        return (address for address, until in list(self._refused.items()) if until > now)

    def _examine(self, found: dict[str, Any]) -> Sequence[str]:
        """Raise the errors of `check`, and return the addresses of the containers."""
        if problem := self._problem(found):
            raise NetworkOpen(
                f"The Docker network {self._name!r} is not as it must be ({problem}): remove it with "
                f"`docker network rm {self._name}` and the gateway creates it again."
            )
        rules = self._rules()
        if not self._is_loaded(rules):
            raise NetworkUnavailable(
                f"The nftables table {rules.name} is incomplete: the gateway loads it again within a minute."
            )
        if _BRIDGE_NETFILTER.exists() and _BRIDGE_NETFILTER.read_text().strip() != "1":
            raise NetworkOpen(
                "Docker's rules between containers have no effect: run "
                "`sysctl -w net.bridge.bridge-nf-call-iptables=1`."
            )
        self._refuse_overlap(subnets.of_the_host(self._bridge))
        held = _addresses(found)
        self._proof.require(held)
        return held

    def remove(self) -> None:
        """Remove the network and the tables, when the gateway is removed from a machine."""
        with translated_errors():
            if self._inspect() is not None:
                self._docker.client.networks.get(self._name).remove()
        self._rules().remove()

    def _is_loaded(self, rules: Ruleset) -> bool:
        """Whether the tables are complete. They are listed only if a table has changed meanwhile."""
        current = generation()
        if current is not None and self._complete == (rules.version, current):
            return True
        if not rules.is_loaded():
            return False
        self._complete = rules.version, current
        return True

    def _rules(self) -> Ruleset:
        return bridge_rules.of(self._bridge, self._subnet, self._router_uids())

    def _inspect(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._docker.client.api.inspect_network(self._name)
        except NotFound:
            return None
        return found

    def _others(self) -> Mapping[str, ipaddress.IPv4Network]:
        dockers = subnets.of_docker(self._docker, self._name)
        return {**dockers, **subnets.of_the_host(self._bridge)}

    def _refuse_overlap(self, others: Mapping[str, ipaddress.IPv4Network]) -> None:
        if other := overlap(self._subnet, others):
            raise NetworkUnavailable(
                f"The sessions' subnet {self._subnet} overlaps {other}: choose another with --subnet "
                "(GATEWAY_SUBNET)."
            )

    def _create(self) -> dict[str, Any]:
        self._refuse_overlap(self._others())
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
            if error.status_code != 409:  # 409: another worker created it meanwhile
                raise
        found = self._inspect()
        if found is None:
            raise NetworkUnavailable(f"The Docker network {self._name!r} was removed while it was created.")
        return found

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


def _addresses(found: dict[str, Any]) -> list[str]:
    """The addresses of running containers. Docker lists them with the length of the prefix."""
    containers = (found.get("Containers") or {}).values()
    return [each["IPv4Address"].partition("/")[0] for each in containers if each["IPv4Address"]]
