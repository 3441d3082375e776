"""The audit trail's words: who acts, and what there is to tell of.

Who acts is named once, where a request or the reaper's work begins, and read wherever an event is told.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from enum import StrEnum

from gateway.models import Event, Session

REAPER, GATEWAY = "reaper", "gateway"  # no token has one of these names

# A thread that is started anew knows nothing of it: tell it who it acts for.
actor: ContextVar[str] = ContextVar("actor", default=GATEWAY)


class What(StrEnum):
    CREATED = "created"  # a session's intent is on record; nothing is made yet
    OPENED = "opened"
    FAILED = "failed"
    CLOSING = "closing"
    RETRY = "retry"  # a step of closing failed; told again only when it fails otherwise
    PROBLEM = "problem"
    RECOVERED = "recovered"
    ENDED = "ended"
    ORPHAN_REMOVED = "orphan-removed"
    KEYS_CHANGED = "keys-changed"
    CORDONED = "cordoned"
    UNCORDONED = "uncordoned"
    DENIED = "denied"
    TOKEN_CREATED = "token-created"
    TOKEN_REVOKED = "token-revoked"


@contextmanager
def acting(name: str) -> Iterator[None]:
    """Until the end of the block, `name` is who acts in this thread."""
    before = actor.set(name)
    try:
        yield
    finally:
        actor.reset(before)


def event(
    now: datetime,
    what: What,
    detail: str = "",
    *,
    session: Session | None = None,
    session_id: str | None = None,
    user_id: str | None = None,
) -> Event:
    """What whoever acts now has done, for the transaction that does it; `session` gives both ids."""
    return Event(
        at=now,
        actor=actor.get(),
        what=what,
        session_id=session.id if session else session_id,
        user_id=session.user_id if session else user_id,
        detail=detail,
    )
