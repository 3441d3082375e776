"""Test packets that prove, again and again, that the sessions' network is closed."""

import ipaddress
import math
import threading
import time
from collections.abc import Sequence

from gateway.domain.addresses import proxy_address
from gateway.errors import NetworkOpen
from gateway.repositories.docker.firewall import generation
from gateway.repositories.docker.packets import open_paths

# How long a result is valid: while no table changes, after a change, and if the network was open.
_PROOF_SECONDS, _SHORTEST_SECONDS, _OPEN_SECONDS = 60.0, 10.0, 1.0


class Proof:
    """The results of the last test packets."""

    def __init__(self, bridge: str, subnet: ipaddress.IPv4Network) -> None:
        self._bridge = bridge
        self._subnet = subnet
        self._lock = threading.Lock()
        self._sent_at = -math.inf
        self._generation: int | None = None
        self._open: Sequence[str] = ()

    def require(self, held: Sequence[str]) -> None:
        """Raises `NetworkOpen` when a path is open. `held` are the addresses of the containers."""
        with self._lock:
            if self._is_outdated():
                self._generation = generation()
                self._open = self._send(held)
                self._sent_at = time.monotonic()
        if self._open:
            raise NetworkOpen(
                f"The sessions' network is open, as test packets show: {'; '.join(self._open)}."
            )

    def _is_outdated(self) -> bool:
        age = time.monotonic() - self._sent_at
        if self._open:
            return age > _OPEN_SECONDS
        is_unchanged = self._generation is not None and self._generation == generation()
        return age > (_PROOF_SECONDS if is_unchanged else _SHORTEST_SECONDS)

    def _send(self, held: Sequence[str]) -> Sequence[str]:
        """Sessions get the lowest free addresses, so the test packets use the highest."""
        gateway, *others = map(str, self._subnet.hosts())
        proxy = proxy_address(self._subnet)
        spare = [address for address in reversed(others) if address not in {*held, proxy}][:2]
        if len(spare) < 2:
            return self._open
        sessions = [address for address in held if address != proxy]
        return open_paths(self._bridge, gateway, (spare[0], spare[1]), sessions)
