"""Renders a page in the browser's language, whole or, for a poll, only what changes."""

import hashlib
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, g, render_template, request

from gateway.dashboard.blueprint import routes
from gateway.domain import permissions
from gateway.domain.disk import gib
from gateway.domain.durations import in_words
from gateway.domain.usage import hours
from gateway.domain.words import Words
from gateway.languages import ENGLISH, LANGUAGES, translations

LANGUAGE_COOKIE = "gateway_language"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
TAG = "HX-PTag"  # of htmx's extension ptag: the tag of the content that the browser shows


def install(app: Flask, words: Words) -> None:
    """Give the templates of `app` their filters and their translations."""
    app.jinja_env.add_extension("jinja2.ext.i18n")
    app.jinja_env.install_gettext_callables(  # type: ignore[attr-defined]
        lambda text: translations(language()).gettext(text),
        lambda one, many, number: translations(language()).ngettext(one, many, number),
        newstyle=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "time": words.date,
        "span": lambda span: in_words(span, language()),
        "gib": gib,
        "hours": hours,
    }
    app.jinja_env.filters |= filters


def language() -> str:
    """The language that the browser's user chose, or else the first that the browser prefers. A page asks
    hundreds of times."""
    if "language" not in g:
        chosen = request.cookies.get(LANGUAGE_COOKIE)
        preferred = request.accept_languages.best_match(list(LANGUAGES), ENGLISH) or ENGLISH
        g.language = chosen if chosen in LANGUAGES else preferred
    found: str = g.language
    return found


def is_poll() -> bool:
    """Whether the browser shows the page already and asks for the part that changes."""
    return "HX-Request" in request.headers


def page(template: str, status: int = 200, **content: Any) -> Response:
    """A page, or for a poll the part of it that changes, with the tag of its text."""
    text = render_template(template, is_poll=is_poll(), **content)
    tag = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Response(text, status, {TAG: tag}, mimetype="text/html")


@routes.context_processor
def _context() -> dict[str, Any]:
    return {"may": _may, "language": language(), "languages": LANGUAGES, "caller": g.get("caller")}


def _may(endpoint: str) -> bool:
    """Whether the API allows the caller this endpoint, so that the page shows its button."""
    caller = g.get("caller")
    return caller is not None and permissions.scope(caller.role, endpoint) is not None


@routes.after_request
def _protect(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "same-origin"  # with no-referrer, browsers send `Origin: null`
    return response
