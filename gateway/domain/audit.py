"""The audit trail's words: who acts, and what there is to tell of.

Who acts is named once, where a request or the reaper's work begins, and read wherever an event is told.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum

REAPER, GATEWAY = "reaper", "gateway"  # no token has one of these names

# A thread that is started anew knows nothing of it: tell it who it acts for.
actor: ContextVar[str] = ContextVar("actor", default=GATEWAY)


class Action(StrEnum):
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
    DISK_NEARLY_FULL = "disk-nearly-full"  # of a user's quota, where the file system keeps none
    DISK_FULL = "disk-full"
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
