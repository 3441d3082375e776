"""Which events go to which webhook, what is sent, and when it is sent again. Pure.

The form is that of Standard Webhooks (standardwebhooks.com).
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from difflib import get_close_matches
from enum import StrEnum
from typing import Any

from gateway.domain.audit import Action
from gateway.domain.models import EndedSession, Event, Session, User
from gateway.domain.waiting_request import WaitingRequest

EVERY = "*"
RETRIES = (  # the time from each failure to the next attempt; the first attempt is made at once
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
)
GONE = 410  # the receiver wants no more: the webhook is switched off

_TYPES = {
    Action.WARNED: "session.expiring",
    Action.CORDONED: "gpu.cordoned",
    Action.UNCORDONED: "gpu.uncordoned",
    Action.GPU_UNHEALTHY: "gpu.unhealthy",
    Action.GPU_RECOVERED: "gpu.recovered",
    Action.DISK_NEARLY_FULL: "workspace.nearly_full",
    Action.DISK_FULL: "workspace.full",
    Action.KEYS_CHANGED: "user.keys_changed",
    Action.USER_CHANGED: "user.changed",
    Action.DENIED: "request.denied",
    Action.TOKEN_CREATED: "token.created",
    Action.TOKEN_REVOKED: "token.revoked",
    Action.SIGNED_IN: "token.signed_in",
    Action.POLICY_CHANGED: "policy.changed",
    Action.POLICY_REMOVED: "policy.removed",
    Action.WEBHOOK_CHANGED: "webhook.changed",
    Action.WEBHOOK_REMOVED: "webhook.removed",
    Action.WEBHOOK_DISABLED: "webhook.disabled",
    Action.WEBHOOK_TESTED: "webhook.tested",
}


class Format(StrEnum):
    STANDARD = "standard"
    SLACK = "slack"  # {"text": …}, which Slack, Mattermost and Discord's /slack accept


def event_type(what: str) -> str:
    """Return the type of an action of the audit log, such as `session.opened`."""
    return _TYPES.get(Action(what), f"session.{what.replace('-', '_')}")


_KNOWN = {event_type(action) for action in Action}
_PATTERNS = {EVERY, *_KNOWN, *(f"{kind.partition('.')[0]}.*" for kind in _KNOWN)}


def problem_with_pattern(pattern: str) -> str | None:
    """Return what is wrong with a pattern of event types, as a sentence; None if there are such events. Under
    a mistyped one a receiver would wait for ever."""
    if pattern in _PATTERNS:
        return None
    similar = get_close_matches(pattern, sorted(_KNOWN), 1) or ["session.opened"]
    return f"{pattern[:100]!r} is no type of events: use one such as {similar[0]}, session.* or *."


def wants(patterns: Iterable[str], kind: str) -> bool:
    return any(pattern in (EVERY, kind) or pattern == f"{kind.partition('.')[0]}.*" for pattern in patterns)


Subject = Session | EndedSession | WaitingRequest


def message(event: Event, session: Subject | None, user: User | None) -> Mapping[str, Any]:
    """Return what a receiver gets, before it is JSON. `session` is the one that the event is about, or the
    request in line for one."""
    kind = event_type(event.what)
    return {
        "type": kind,
        "timestamp": _time(event.at),
        "data": {
            "event_id": event.id,
            "actor": event.actor,
            "detail": event.detail,
            "text": _text(kind, event, session),
            "session": _session(session) if session else None,
            "user": {"user_id": event.user_id, "group": user and user.group, "email": user and user.email}
            if event.user_id
            else None,
        },
    }


def next_attempt(failures: int, now: datetime) -> datetime | None:
    """Return when to send again after so many failed attempts; None if it was the last one."""
    return now + RETRIES[failures - 1] if failures <= len(RETRIES) else None


def _session(session: Subject) -> Mapping[str, Any]:
    ended_at, reason = getattr(session, "ended_at", None), getattr(session, "reason", None)
    named = {"session_id": session.id, "mig_profile": session.mig_profile}
    if isinstance(session, WaitingRequest):
        missing = dict.fromkeys(("gpu_uuid", "expires_at", "ended_at", "reason"))
        return {**named, "created_at": _time(session.asked_at), **missing}
    return {
        **named,
        "gpu_uuid": session.gpu_uuid,
        "created_at": _time(session.created_at),
        "expires_at": _time(session.expires_at),
        "ended_at": _time(ended_at) if ended_at else None,
        "reason": reason,
    }


def _text(kind: str, event: Event, session: Subject | None) -> str:
    """A sentence that a receiver can mail or post as it is."""
    profile = f" ({session.mig_profile})" if session else ""
    who = f"The session of {event.user_id}{profile}"
    until = "" if session is None or isinstance(session, WaitingRequest) else _minute(session.expires_at)
    if isinstance(session, EndedSession) and session.opened_at is None and kind == "session.ended":
        return f"{event.user_id} gets no session{profile}: {session.reason}."
    reason = session.reason if isinstance(session, EndedSession) else event.detail
    sentences = {
        "session.waiting": f"{event.user_id} waits for a session: {event.detail}.",
        "session.promise_delayed": f"The session that {event.user_id} waits for comes later: {event.detail}.",
        "session.logged_in": f"{event.user_id} has logged in {event.detail}.",
        "session.logged_out": f"{event.user_id} has logged out {event.detail}.",
        "session.problem": f"{who} has a problem: {event.detail}",
        "session.recovered": f"{who} has no problem any more.",
        "gpu.unhealthy": f"A GPU has a fault: {event.detail}.",
        "gpu.recovered": f"The fault of a GPU is over: {event.detail}.",
        "gpu.cordoned": f"No new sessions start on a GPU: {event.detail}.",
        "gpu.uncordoned": f"Sessions start on a GPU again: {event.detail}.",
        "workspace.nearly_full": f"The workspace of {event.user_id} is nearly full: {event.detail}.",
        "workspace.full": f"The workspace of {event.user_id} is full: {event.detail}.",
        "token.created": f"A token was created: {event.detail}.",
        "token.revoked": f"A token was revoked: {event.detail}.",
        "session.created": f"{who} is being opened.",
        "session.opened": f"{who} is open until {until}.",
        "session.extended": f"{who} is extended until {until}.",
        "session.expiring": f"{who} ends at {until}. What runs in it is not kept.",
        "session.idle": f"Nobody uses a session any more. {who} ends soon, unless its user logs in.",
        "session.kept": f"{who} is kept although nobody uses it: {event.detail}.",
        "session.failed": f"{who} could not be opened: {event.detail}",
        "session.closing": f"{who} is closing: {reason}.",
        "session.ended": f"{who} has ended: {reason}. The workspace is kept.",
        "webhook.tested": "This is a test of the GPU SSH Gateway.",
    }
    subject = f" of {event.user_id}" if event.user_id else ""
    return sentences.get(kind, f"{kind}{subject}: {event.detail or 'no details'}")


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
