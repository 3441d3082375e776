"""What must be done so that the machine agrees with the database again: decided here, done elsewhere."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gateway.host import Container
from gateway.models import Reason, Session, Status


@dataclass(frozen=True, slots=True)
class Plan:
    """`close`: sessions to take back, and why. `orphans`: ids without a row that something is left of."""

    close: Mapping[str, Reason]
    orphans: Sequence[str]


def plan(
    sessions: Iterable[Session], containers: Iterable[Container], remains: Iterable[str], now: datetime
) -> Plan:
    """`sessions` were read before `containers` and `remains` (ids of sessions that have files)."""
    by_session = {container.session_id: container for container in containers}
    rows = {session.id: session for session in sessions}
    verdicts = {id: _verdict(session, by_session.get(id), now) for id, session in rows.items()}
    return Plan(
        close={id: reason for id, reason in verdicts.items() if reason},
        orphans=sorted((by_session.keys() | set(remains)) - rows.keys()),
    )


def _verdict(session: Session, container: Container | None, now: datetime) -> Reason | None:
    """Why the session must be closed, or None when it is fine as it is."""
    if session.is_being_opened(now):
        return None
    if session.status == Status.CLOSING:
        return Reason(str(session.end_reason))
    if session.status == Status.PENDING:
        return Reason.FAILED
    if container is None:
        return Reason.FAILED
    return Reason.USER_EXIT if container.ended else None
