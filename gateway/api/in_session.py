"""Requests from inside a session: who sends them, and their answers in words instead of JSON.

On one server, the gateway's own gate sets the uid on the connection, from the kernel's credentials of the
peer. A client can set headers, but nothing on the connection. On a cluster, a session has a token.
"""

from datetime import datetime

from flask import Flask, Response, request

from gateway.domain import session_token
from gateway.domain.activity_words import ActivityInWords
from gateway.domain.clock import Clock
from gateway.domain.refusals import RefusalInWords
from gateway.domain.words import Words

_TEXT = "text/plain"


def uid() -> int | None:
    """Return the uid of the peer; None for a request from outside of the sessions."""
    connection = request.environ.get("gunicorn.socket")
    peer: int | None = getattr(connection, "session_uid", None)
    return peer


def token() -> str | None:
    """Return the token of the session that the request says it is from; None if it names no session."""
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    is_session = scheme.lower() == "bearer" and secret.strip().startswith(session_token.PREFIX)
    return secret.strip() if is_session else None


def register(app: Flask, words: Words, clock: Clock) -> None:
    """Answer in one sentence where a program in a session accepts `text/plain` first."""

    @app.after_request
    def answer_in_words(response: Response) -> Response:
        is_inside = uid() is not None or token() is not None
        has_words = response.is_json or response.status_code == 204
        if is_inside and has_words and request.accept_mimetypes.best == _TEXT:
            response.set_data(_sentence(response, words, clock().wall) + "\n")
            response.content_type = f"{_TEXT}; charset=utf-8"
            if response.status_code == 204:
                response.status_code = 200
        return response


def _sentence(response: Response, words: Words, now: datetime) -> str:
    if response.status_code == 204:
        return words.session_ended()
    body = response.get_json()
    if "detail" in body:
        return RefusalInWords(body, words).text(now)
    if "signals" in body:
        found = ActivityInWords(body, words)
        return found.kept() if request.method == "POST" else found.text(now)
    if "expires_at" not in body:
        return response.get_data(as_text=True).strip()
    ends, latest_end = (_time(body[name]) for name in ("expires_at", "max_expires_at"))
    assert ends is not None
    return words.lease_in_words(body["mig_profile"], ends, latest_end, now)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
