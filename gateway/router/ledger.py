"""The addresses and logins of connections: log lines and reports about them."""

from dataclasses import dataclass, field

from gateway.domain.ssh_logins import Kind
from gateway.router import journal
from gateway.router.channel import Message
from gateway.router.reports import Reports

_KINDS = {"accepted": Kind.ACCEPTED, "refused": Kind.REFUSED, "closed": Kind.CLOSED}


@dataclass
class Ledger:
    """Connections have numbers. The supervisor has one ledger for all of them, and each worker has one of its
    own connections for the time after the supervisor's end. `now` is in monotonic seconds."""

    reports: Reports
    _addresses: dict[int, str] = field(default_factory=dict)
    _logged_in: dict[int, tuple[float, Message]] = field(default_factory=dict)

    @property
    def connections(self) -> int:
        return len(self._addresses)

    def arrived(self, number: int, address: str) -> None:
        self._addresses[number] = address

    def learn(self, message: Message, now: float) -> None:
        """Note since when a connection is logged in, if `message` says that it is."""
        if message["event"] == "accepted":
            self._logged_in[message["number"]] = now, message

    def write(self, message: Message, now: float) -> None:
        """Write the log line of a worker's message, and report it to the gateway."""
        event, number = message["event"], message.get("number", 0)
        self.learn(message, now)
        facts = {**message, "address": self._addresses.get(number)}
        journal.write(event, facts)
        if event in _KINDS:
            since, _ = self._logged_in.get(number, (now, {}))
            self.reports.add(_KINDS[event], facts, now - since)

    def lost(self, number: int, now: float) -> None:
        """The connection's worker died. Only the gateway learns it: there is a log line for the worker."""
        if number in self._logged_in:
            since, message = self._logged_in[number]
            facts = {**message, "address": self._addresses.get(number), "reason": "the router's process died"}
            self.reports.add(Kind.CLOSED, facts, now - since)

    def left(self, number: int) -> None:
        self._addresses.pop(number, None)
        self._logged_in.pop(number, None)
