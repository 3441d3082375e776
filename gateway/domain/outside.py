"""The addresses that the egress proxy must not connect to, although a named host resolves to them. Pure."""

import ipaddress
from collections.abc import Iterable, Sequence

Subnet = ipaddress.IPv4Network

# "This" network, loopback, link-local with the metadata of most clouds, protocol assignments, multicast,
# reserved; then the metadata services of Alibaba and of Azure.
_NEVER = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "192.0.0.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "100.100.100.200/32",
    "168.63.129.16/32",
)
# Private networks, networks of carriers, benchmarks. An administrator can open parts of these.
_PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15")


def closed(sessions: str | None, opened: Iterable[str]) -> Sequence[Subnet]:
    """Return the closed subnets. `sessions` is the sessions' subnet; None if they have none of their own, as
    on a cluster. `opened` are the private subnets in which named hosts can be."""
    private = _subnets(_PRIVATE)
    for subnet in _subnets(opened):
        private = [piece for each in private for piece in _without(each, subnet)]
    own = _subnets([sessions] if sessions else [])
    return list(ipaddress.collapse_addresses([*_subnets(_NEVER), *own, *private]))


def problem_with(subnet: str) -> str | None:
    """Return why an administrator cannot open `subnet`; None if that is possible."""
    try:
        network = ipaddress.IPv4Network(subnet)
    except ValueError:
        return f"{subnet!r} is not an IPv4 subnet: use one such as 10.20.0.0/16."
    if not any(network.subnet_of(each) for each in _subnets(_PRIVATE)):
        return f"{subnet} is not a private subnet: use a part of {', '.join(_PRIVATE)}."
    return None


def _subnets(texts: Iterable[str]) -> list[Subnet]:
    return [ipaddress.IPv4Network(text) for text in texts]


def _without(subnet: Subnet, other: Subnet) -> Iterable[Subnet]:
    if not subnet.overlaps(other):
        return [subnet]
    return [] if subnet.subnet_of(other) else subnet.address_exclude(other)
