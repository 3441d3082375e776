"""The addresses that the egress proxy must not connect to."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from gateway.domain.outside import closed

SESSIONS = "10.213.0.0/20"


def is_closed(address: str, *opened: str) -> bool:
    return any(IPv4Address(address) in subnet for subnet in closed(SESSIONS, opened))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.8.8.8", "0.0.0.0", "169.254.169.254", "169.254.170.2", "192.0.0.192"),
        *("100.100.100.200", "168.63.129.16", "224.0.0.1", "255.255.255.255"),
        *("10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "198.18.0.1"),
    ],
)
def test_private_addresses_loopback_and_metadata_are_closed(address: str) -> None:
    assert is_closed(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "172.15.0.1", "172.32.0.1", "100.128.0.1", "11.0.0.1"])
def test_public_addresses_are_open(address: str) -> None:
    assert not is_closed(address)


def test_an_opened_subnet_is_open_and_its_neighbours_are_not() -> None:
    opened = "10.20.0.0/16", "192.168.7.128/25"
    for address in ("10.20.0.0", "10.20.255.255", "192.168.7.128", "192.168.7.255"):
        assert not is_closed(address, *opened)
    for address in ("10.19.255.255", "10.21.0.0", "192.168.7.127", "192.168.8.0", "172.16.0.1"):
        assert is_closed(address, *opened)


def test_metadata_and_sessions_stay_closed_in_an_opened_subnet() -> None:
    opened = "100.64.0.0/10", "10.0.0.0/8"
    assert not is_closed("100.100.100.201", *opened)
    assert is_closed("100.100.100.200", *opened)
    assert not is_closed("10.212.255.255", *opened)
    assert is_closed("10.213.0.5", *opened)


def test_the_same_subnet_twice_or_within_another_is_opened_once() -> None:
    for opened in (["10.0.0.0/8"] * 2, ["10.20.0.0/16", "10.0.0.0/8"], ["10.0.0.0/8", "10.20.0.0/16"]):
        assert not is_closed("10.20.0.1", *opened)
        assert not is_closed("10.99.0.1", *opened)


def test_the_closed_subnets_do_not_overlap() -> None:
    """nft and Squid refuse sets of subnets that overlap."""
    for sessions in (SESSIONS, "100.64.0.0/10", "192.0.2.0/24"):
        subnets = [*closed(sessions, ["172.16.0.0/12"])]
        assert any(IPv4Network(sessions).subnet_of(subnet) for subnet in subnets)
        for number, subnet in enumerate(subnets):
            assert not any(subnet.overlaps(other) for other in subnets[number + 1 :])
