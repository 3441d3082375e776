"""The networks that the sessions' subnet must not overlap: the host's own and those of Docker."""

import socket
import struct
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_network
from pathlib import Path

from gateway.repositories.docker.client import Docker

_ROUTES = Path("/proc/net/route")
# The pools from which Docker takes the subnets of new networks, unless its configuration names others.
_DEFAULT_POOLS = [*(f"172.{number}.0.0/16" for number in range(17, 32)), "192.168.0.0/16"]


def of_the_host(except_interface: str) -> Mapping[str, IPv4Network]:
    """Return the networks that the host is connected to directly, by description."""
    found = {}
    for line in _ROUTES.read_text().splitlines()[1:]:
        interface, destination, gateway, *_, mask = line.split()[:8]
        if interface != except_interface and int(gateway, 16) == 0 and int(mask, 16) != 0:
            network = IPv4Network(f"{_address(destination)}/{_address(mask)}")
            found[f"{network}, the network of {interface}"] = network
    return found


def of_docker(docker: Docker, except_network: str) -> Mapping[str, IPv4Network]:
    """Return the subnets of Docker's other networks and its pools for new networks, by description."""
    found = {}
    for network in docker.client.api.networks():
        configured = network["IPAM"]["Config"] if network["Name"] != except_network else None
        for config in configured or []:
            subnet = ip_network(config.get("Subnet", "::/0"), strict=False)
            if isinstance(subnet, IPv4Network):
                found[f"{subnet}, Docker's network {network['Name']}"] = subnet
    pools = docker.client.info().get("DefaultAddressPools")
    for pool in [pool["Base"] for pool in pools] if pools else _DEFAULT_POOLS:
        subnet = ip_network(pool, strict=False)
        if isinstance(subnet, IPv4Network):
            found[f"{subnet}, from which Docker takes subnets for other networks"] = subnet
    return found


def _address(hexadecimal: str) -> str:
    """The kernel writes an address as a hexadecimal number in the byte order of the machine."""
    return socket.inet_ntoa(struct.pack("=I", int(hexadecimal, 16)))
