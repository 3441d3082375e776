"""The actors and actions of the audit log.

The actor is set once, where a request or a round of the reaper begins, and read wherever an event is
recorded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum

REAPER, GATEWAY, ROUTER = "reaper", "gateway", "router"
RESERVED = frozenset({REAPER, GATEWAY, ROUTER})  # no token can have these names
ANONYMOUS = "anonymous@"  # before the address of a caller without a token

# A new thread starts with the default, so set the actor there again.
actor: ContextVar[str] = ContextVar("actor", default=GATEWAY)


class Action(StrEnum):
    CREATED = "created"  # the session's row is committed; nothing else exists yet
    OPENED = "opened"
    WAITING = "waiting"  # a request joined the waiting line, or is in line again after a failure
    PROMISE_DELAYED = "promise-delayed"  # the time that a waiting request was promised got later
    PRIORITY = "priority"  # of a waiting request
    EXTENDED = "extended"
    WARNED = "warned"  # of the end of the lease; the detail says how many terminals got it
    IDLE = "idle"  # the user was warned that the session ends because nobody uses it
    KEPT = "kept"  # by its user, from ending because nobody uses it
    BEFORE_END = "before-end"  # the user's own program was started
    SIGNALLED = "signalled"  # the user's programs got SIGTERM
    MESSAGE = "message"
    FAILED = "failed"
    CLOSING = "closing"
    RETRY = "retry"  # a step of closing failed; recorded again only if the error changes
    PROBLEM = "problem"
    RECOVERED = "recovered"
    ENDED = "ended"
    ORPHAN_REMOVED = "orphan-removed"
    KEYS_CHANGED = "keys-changed"
    USER_CHANGED = "user-changed"  # the group, or the address for mail
    DISK_NEARLY_FULL = "disk-nearly-full"  # a workspace near its quota, on a file system without quotas
    DISK_FULL = "disk-full"
    CORDONED = "cordoned"
    UNCORDONED = "uncordoned"
    GPU_UNHEALTHY = "gpu-unhealthy"  # a GPU has a fault, whether or not it has sessions
    GPU_RECOVERED = "gpu-recovered"
    LOGGED_IN = "logged-in"  # over SSH, as the embedded router reports it
    LOGGED_OUT = "logged-out"
    DENIED = "denied"  # a request, or an SSH login
    TOKEN_CREATED = "token-created"
    TOKEN_REVOKED = "token-revoked"
    SIGNED_IN = "signed-in"  # to the web pages
    POLICY_CHANGED = "policy-changed"
    POLICY_REMOVED = "policy-removed"
    WEBHOOK_CHANGED = "webhook-changed"
    WEBHOOK_REMOVED = "webhook-removed"
    WEBHOOK_DISABLED = "webhook-disabled"  # by the answer 410 of its receiver
    WEBHOOK_TESTED = "webhook-tested"


def in_session(user_id: str) -> str:
    """The name of a user who acts from inside the user's own session. No token's name has a space."""
    return f"{user_id} (in session)"


@contextmanager
def acting(name: str) -> Iterator[None]:
    """Set the actor of this thread to `name` for the duration of the block."""
    before = actor.set(name)
    try:
        yield
    finally:
        actor.reset(before)
