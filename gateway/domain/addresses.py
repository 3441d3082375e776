"""The addresses of a session network: each session's own, and that of the egress proxy."""

import ipaddress

from gateway.errors import NoCapacity

PROXY_PORT = 3128  # Squid's own


def free_address(subnet: ipaddress.IPv4Network, used: set[str]) -> str:
    taken = used | {proxy_address(subnet)}
    hosts = subnet.hosts()
    next(hosts)  # the bridge's own
    for address in hosts:
        if str(address) not in taken:
            return str(address)
    raise NoCapacity(f"All addresses of the sessions' network {subnet} are in use.")


def proxy_address(subnet: ipaddress.IPv4Network) -> str:
    """Where sessions find the way to what they may reach outside, at `PROXY_PORT`."""
    return str(subnet.network_address + 2)


def proxy(subnet: ipaddress.IPv4Network) -> str:
    """As ADDRESS:PORT."""
    return f"{proxy_address(subnet)}:{PROXY_PORT}"
