"""Records in the audit log what the embedded router reports of SSH logins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from gateway.domain import durations
from gateway.domain.audit import ROUTER, Action, acting
from gateway.domain.clock import Clock
from gateway.domain.models import Event
from gateway.domain.rate import PerMinute
from gateway.domain.ssh_logins import Datagram, Kind, LoginReport
from gateway.domain.users import USER_ID
from gateway.services.ports import Database

_BY_USER, _BY_ADDRESS, _REFUSALS = 60, 20, 200  # events a minute
_FURTHER = "; further ones of this minute are not recorded"


@dataclass
class SshLogins:
    """The number of events is limited for each user, and of refusals for each address and in total."""

    database: Database
    clock: Clock
    _by_user: PerMinute = field(init=False)
    _by_address: PerMinute = field(init=False)
    _refusals: PerMinute = field(init=False)

    def __post_init__(self) -> None:
        self._by_user = PerMinute(self.clock, _BY_USER)
        self._by_address = PerMinute(self.clock, _BY_ADDRESS)
        self._refusals = PerMinute(self.clock, _REFUSALS)

    def events(self, datagram: Datagram) -> Sequence[Event]:
        """Return the events of the reports, without those above the limits."""
        with acting(ROUTER):
            return [*self._lost(datagram.lost), *(e for each in datagram.reports for e in self._event(each))]

    def record(self, events: Sequence[Event]) -> None:
        """Raises `DatabaseUnavailable`, `DiskFull`."""
        with self.database.begin() as rows:
            for event in events:
                rows.record(event)

    def _lost(self, count: int) -> Iterator[Event]:
        if count:
            detail = f"the router dropped {count} reports of SSH logins while no gateway took them"
            yield Event.of(self.clock().wall, Action.PROBLEM, detail)

    def _event(self, report: LoginReport) -> Iterator[Event]:
        if report.kind is Kind.REFUSED:
            excess = self._excess_of_refusal(report)
        else:
            excess, _ = self._by_user.note(report.user)
        if excess <= 1:
            yield self._of(report, _FURTHER if excess else "")

    def _excess_of_refusal(self, report: LoginReport) -> int:
        """A client that names no user is not recorded: every scan of the port is such a client."""
        if not report.user:
            return 2
        excess, _ = self._by_address.note(report.address)
        if excess > 1:  # one address cannot use up the total
            return excess
        return max(excess, self._refusals.note("")[0])

    def _of(self, report: LoginReport, further: str) -> Event:
        what, detail = _described(report)
        is_user = USER_ID.fullmatch(report.user)
        return Event.of(
            report.when(self.clock().wall),
            what,
            detail + further,
            session_id=report.session_id[:36] if report.session_id else None,
            user_id=report.user if is_user else None,
        )


def _described(report: LoginReport) -> tuple[Action, str]:
    if report.kind is Kind.ACCEPTED:
        return Action.LOGGED_IN, f"from {report.address}"
    if report.kind is Kind.CLOSED:
        after = durations.in_words(timedelta(seconds=report.seconds))
        return Action.LOGGED_OUT, f"from {report.address}, after {after}: {report.reason}"
    name = "" if USER_ID.fullmatch(report.user) else f" as {report.user!r}"
    return Action.DENIED, f"SSH login{name} from {report.address}: {report.reason}"
