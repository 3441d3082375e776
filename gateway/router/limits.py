"""How many connections there may be, from where and whose: rules without a socket or a clock.

A whole institute may share one address, and a flood must not keep it out. So a new connection of an
address in good standing is accepted, and where too many have not logged in yet, one of the address that
has the most of them is dropped instead.
"""

import ipaddress
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

MAX_UNAUTHENTICATED = 400
MAX_LOGINS_PER_USER = 200
MAX_HELD_PER_USER = 5  # logins that wait for a session
CONNECTIONS_AT_ONCE, CONNECTIONS_PER_SECOND = 300, 30  # from one address

# Points that an address collects; one is forgiven each second, and some at a login.
LEFT_EARLY, LEFT_LATER, REFUSED = 0.1, 1.0, 2.0
FORGIVEN_AT_A_LOGIN = 20.0
TOO_MANY_POINTS, FEW_ENOUGH_POINTS = 60.0, 30.0

_FORGET_SECONDS = 600


def source_of(address: str) -> str:
    """What is counted as one source: an IPv4 address, or a /64 of IPv6, which one site has for itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return address
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))


@dataclass(slots=True)
class _Standing:
    """A source's account at `now`, in seconds of a clock that never goes back."""

    now: float
    points: float = 0.0
    connections: float = float(CONNECTIONS_AT_ONCE)
    is_blocked: bool = False

    def at(self, now: float) -> "_Standing":
        passed, self.now = now - self.now, now
        self.points = max(0.0, self.points - passed)
        self.connections = min(CONNECTIONS_AT_ONCE, self.connections + passed * CONNECTIONS_PER_SECOND)
        self.is_blocked = self.is_blocked and self.points > FEW_ENOUGH_POINTS
        return self


class Limits:
    """Counts each connection, by a number of its own, from `arrived` to `left`."""

    def __init__(self, choose: Callable[[list[int]], int] = random.choice) -> None:
        self._choose = choose
        self._standings: dict[str, _Standing] = {}
        self._sources: dict[int, str] = {}
        self._unauthenticated: dict[str, set[int]] = defaultdict(set)
        self._users: dict[int, str] = {}
        self._logins: Counter[str] = Counter()
        self._held: dict[int, str] = {}
        self._forgotten_at = 0.0

    def refusal(self, address: str, now: float) -> str | None:
        """Why a new connection from `address` must not be accepted."""
        standing = self._standing(source_of(address), now)
        if standing.is_blocked:
            seconds = round(standing.points - FEW_ENOUGH_POINTS) + 1
            return f"too many failed logins from your address; try again in {seconds} s"
        if standing.connections < 1:
            return "too many connections from your address in a short time; try again in a few seconds"
        return None

    def arrived(self, number: int, address: str, now: float) -> int | None:
        """Count a connection, and return the number of the one that must be dropped for it, if any."""
        source = source_of(address)
        self._standing(source, now).connections -= 1
        self._sources[number] = source
        self._unauthenticated[source].add(number)
        if sum(map(len, self._unauthenticated.values())) <= MAX_UNAUTHENTICATED:
            return None
        crowd = max(self._unauthenticated.values(), key=len)
        return self._choose(sorted(crowd - {number}) or [number])

    def log_in(self, number: int, user: str, now: float, held: bool = False) -> str | None:
        """Count a login, or return why there must not be another. A `held` one waits until `release`."""
        if held and list(self._held.values()).count(user) >= MAX_HELD_PER_USER:
            return f"{MAX_HELD_PER_USER} of your logins wait already; close some of them first"
        if self._logins[user] >= MAX_LOGINS_PER_USER:
            return (
                f"you have {MAX_LOGINS_PER_USER} connections through this gateway; close some of them first"
            )
        source = self._sources[number]
        self._no_more_unauthenticated(number)
        standing = self._standing(source, now)
        standing.points = max(0.0, standing.points - FORGIVEN_AT_A_LOGIN)
        self._users[number] = user
        if held:
            self._held[number] = user
        self._logins[user] += 1
        return None

    def release(self, number: int) -> None:
        """A held login goes on, or ends."""
        self._held.pop(number, None)

    def failed(self, number: int, points: float, now: float) -> None:
        """A connection ended without a login."""
        standing = self._standing(self._sources[number], now)
        standing.points = min(standing.points + points, 2 * TOO_MANY_POINTS)
        standing.is_blocked = standing.is_blocked or standing.points > TOO_MANY_POINTS

    def left(self, number: int) -> None:
        self._no_more_unauthenticated(number)
        self._sources.pop(number, None)
        self.release(number)
        user = self._users.pop(number, None)
        if user is not None:
            self._logins -= Counter((user,))

    def _no_more_unauthenticated(self, number: int) -> None:
        source = self._sources.get(number, "")
        self._unauthenticated[source].discard(number)
        if not self._unauthenticated[source]:
            del self._unauthenticated[source]

    def _standing(self, source: str, now: float) -> _Standing:
        if now - self._forgotten_at > _FORGET_SECONDS:
            self._forgotten_at = now
            recent = {
                name: each for name, each in self._standings.items() if now - each.now < _FORGET_SECONDS
            }
            self._standings = recent
        return self._standings.setdefault(source, _Standing(now)).at(now)
