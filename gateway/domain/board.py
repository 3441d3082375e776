"""What a session shows its user: lines of the message of the day, and facts for programs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gateway.domain import session_texts
from gateway.domain.lease import LeaseLimit
from gateway.domain.leased import SessionColumns
from gateway.domain.words import Words


@dataclass(frozen=True, slots=True)
class Board:
    """`lease` is the line about the end of the lease, with its label. `notices` maps the label of each other
    line to its text. `facts` are the contents of the file `/etc/gateway/lease`."""

    lease_label: str
    lease: str
    notices: Mapping[str, str]
    facts: Mapping[str, str]


def board(session: SessionColumns, limit: LeaseLimit, words: Words, notices: Mapping[str, str]) -> Board:
    latest_end = limit.latest_end(session)
    facts = {
        "session": session.id,
        "ends": _utc(session.expires_at),
        "max": _utc(latest_end) if latest_end else "",
    }
    label = session_texts.lease_label(words.language)
    return Board(label, words.lease(session.expires_at, latest_end), notices, facts)


def _utc(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
