"""What this process has of the machine for itself: names, a subnet and users that no other test process has.

Names of containers, networks, images and firewall chains are the machine's, and so are subnets. Test
processes run side by side, with each other and with a gateway that serves. So each holds a number, and all
that it makes outside its temporary directory carries the number.
"""

import socket
from functools import cache

_NUMBERS = 250  # as many as fit into one part of an address


@cache
def _held() -> tuple[int, socket.socket]:
    """A number that no other process holds. The kernel frees it when this one ends, however it ends."""
    for number in range(1, _NUMBERS):
        holder = socket.socket(socket.AF_UNIX)
        try:
            holder.bind(f"\0gateway-tests-{number}")
        except OSError:
            holder.close()
        else:
            return number, holder
    raise AssertionError(f"{_NUMBERS} test processes run already")


def name(what: str) -> str:
    """For a container, a network, an image; short enough for a network interface if `what` is."""
    return f"gw{what}-{_held()[0]}"


def user(user_id: str) -> str:
    """The containers of sessions are named after their users."""
    return f"{user_id}-{_held()[0]}"


def user_of_digits() -> str:
    return f"2024{_held()[0]:04}"


def is_user(user_id: str) -> bool:
    return user_id.endswith(user("")) or user_id == user_of_digits()


def subnet(block: int) -> str:
    """256 addresses within 10.BLOCK.0.0/16."""
    return f"10.{block}.{_held()[0]}.0/24"


def ipv6_subnet() -> str:
    return f"fd00:6777:0:{_held()[0]}::/64"
