"""The addresses in the sessions' network: one for each session, and one for the egress proxy."""

import ipaddress
from collections.abc import Mapping

from gateway.errors import NoCapacity

PROXY_PORT = 3128  # Squid's default


def free_address(subnet: ipaddress.IPv4Network, used: set[str]) -> str:
    """Return the lowest address of `subnet` that no session uses. Raises `NoCapacity`."""
    unavailable = used | {proxy_address(subnet)}
    hosts = subnet.hosts()
    next(hosts)  # the bridge's own address
    for address in hosts:
        if str(address) not in unavailable:
            return str(address)
    raise NoCapacity(f"All addresses of the sessions' network {subnet} are in use: set a larger --subnet.")


def overlap(subnet: ipaddress.IPv4Network, others: Mapping[str, ipaddress.IPv4Network]) -> str | None:
    """Return the description of the first of `others` that has addresses of `subnet`; None if none has."""
    return next((text for text, other in others.items() if other.overlaps(subnet)), None)


def proxy_address(subnet: ipaddress.IPv4Network) -> str:
    """Return the address at which sessions find the egress proxy, on `PROXY_PORT`."""
    return str(subnet.network_address + 2)


def proxy(subnet: ipaddress.IPv4Network) -> str:
    """Return the egress proxy as ADDRESS:PORT."""
    return f"{proxy_address(subnet)}:{PROXY_PORT}"
