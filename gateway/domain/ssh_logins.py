"""What the embedded router reports to the gateway: SSH logins, refusals and ends of connections. Pure.

The router sends datagrams to a unix socket beside the pipe file. Each is a JSON object with several reports.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

SOCKET = "logins.sock"
REPORTS_AT_ONCE = 50  # in a datagram
LARGEST = 128 * 1024  # bytes of a datagram
_LONGEST_TEXT = 200  # characters
_OLDEST = timedelta(days=1)


class Kind(StrEnum):
    ACCEPTED = "accepted"
    REFUSED = "refused"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class LoginReport:
    """`at` is the router's time in seconds since 1970. `user` is what the client named, which need not be a
    user id. `seconds` is how long a closed connection was logged in."""

    kind: Kind
    at: float
    user: str
    address: str
    session_id: str | None = None
    reason: str = ""
    seconds: int = 0

    def when(self, now: datetime) -> datetime:
        """Return `at`, or `now` if the router's time cannot be right."""
        try:
            at = datetime.fromtimestamp(self.at, UTC)
        except (ValueError, OverflowError, OSError):
            return now
        return at if now - _OLDEST < at <= now else now


@dataclass(frozen=True, slots=True)
class Datagram:
    """`lost` counts the reports that the router dropped before these, while no gateway took them."""

    reports: Sequence[LoginReport]
    lost: int = 0

    def encode(self) -> bytes:
        reports = [asdict(_shortened(report)) for report in self.reports]
        return json.dumps({"lost": self.lost, "reports": reports}).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Datagram":
        """Raises `ValueError` for anything that `encode` does not make."""
        try:
            content = json.loads(data)
            reports = [_shortened(_report(each)) for each in content["reports"]]
            return cls(reports, int(content["lost"]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"not a datagram of the router: {error}") from error


def _report(fields: dict[str, Any]) -> LoginReport:
    session_id = fields["session_id"]
    return LoginReport(
        kind=Kind(fields["kind"]),
        at=float(fields["at"]),
        user=str(fields["user"]),
        address=str(fields["address"]),
        session_id=None if session_id is None else str(session_id),
        reason=str(fields["reason"]),
        seconds=int(fields["seconds"]),
    )


def _shortened(report: LoginReport) -> LoginReport:
    return replace(
        report,
        user=_plain(report.user),
        address=_plain(report.address),
        session_id=None if report.session_id is None else _plain(report.session_id),
        reason=_plain(report.reason),
    )


def _plain(text: str) -> str:
    """Clients choose some of the texts: control characters would reach the terminals of readers."""
    return "".join(each if each.isprintable() else "?" for each in text[:_LONGEST_TEXT])
