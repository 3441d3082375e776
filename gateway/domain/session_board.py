"""The board of a session, from its row."""

from collections.abc import Mapping
from datetime import datetime

from gateway.domain import session_texts
from gateway.domain.board import Board
from gateway.domain.lease import LeaseLimit
from gateway.domain.leased import SessionColumns
from gateway.domain.words import Words


def session_board(
    session: SessionColumns, limit: LeaseLimit, words: Words, notices: Mapping[str, str]
) -> Board:
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
