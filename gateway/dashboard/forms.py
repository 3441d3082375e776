"""The forms: each sends one endpoint of the API what was typed.

A GET shows the form, and what will be lost if it is sent. After a POST the browser is sent to a page, so that
reloading repeats nothing. If the gateway refuses, the form shows the reason, and keeps what was typed.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue
from marshmallow import ValidationError

from gateway.api import gpus as gpus_api
from gateway.api import queue as queue_api
from gateway.api import sessions as sessions_api
from gateway.api.authorisation import own_user
from gateway.api.endpoints import answer, sentences
from gateway.api.errors import meaning
from gateway.dashboard.blueprint import routes
from gateway.dashboard.pages import gpu, of_session, profiles
from gateway.dashboard.rendering import page
from gateway.domain import durations
from gateway.errors import GatewayError

_Json = dict[str, Any]


@routes.route("/create", methods=["GET", "POST"])
def create() -> ResponseReturnValue:
    """Open a session. If the gateway made the key pair, show the private key, which nobody gets again."""

    def act() -> ResponseReturnValue:
        opened = answer(sessions_api.create, _session())
        if "ssh_private_key" not in opened:
            return redirect(url_for("ui.session", session_id=opened["session_id"]), 303)
        return page(
            "opened.html", 201, private_key=opened["ssh_private_key"], **of_session(opened["session_id"])
        )

    return _form("create.html", act, lambda: {"profiles": profiles(), "own_user": own_user()})


@routes.route("/sessions/<session_id>/extend", methods=["GET", "POST"])
def extend(session_id: str) -> ResponseReturnValue:
    """Extend a lease."""

    def act() -> ResponseReturnValue:
        by = _typed("by")
        body = {"minutes": "max" if by == "max" else _minutes(by), "override": "override" in request.form}
        if ends := _typed("ends"):
            body["ends"] = ends
        answer(sessions_api.extend, body, session_id=session_id)
        return redirect(url_for("ui.session", session_id=session_id), 303)

    return _form("extend.html", act, lambda: of_session(session_id))


@routes.route("/sessions/<session_id>/end", methods=["GET", "POST"])
def end(session_id: str) -> ResponseReturnValue:
    """End a session."""

    def act() -> ResponseReturnValue:
        body = {"note": note} if (note := _typed("note")) else {}
        answer(sessions_api.delete, body, session_id=session_id)
        return redirect(url_for("ui.now"), 303)

    return _form("end.html", act, lambda: of_session(session_id))


@routes.route("/sessions/<session_id>/message", methods=["GET", "POST"])
def message(session_id: str) -> ResponseReturnValue:
    """Send a message to the user of a session."""

    def act() -> ResponseReturnValue:
        answer(sessions_api.send_message, {"text": _typed("text")}, session_id=session_id)
        return redirect(url_for("ui.session", session_id=session_id), 303)

    return _form("message.html", act, lambda: of_session(session_id))


@routes.route("/waiting/<session_id>/move", methods=["GET", "POST"])
def move(session_id: str) -> ResponseReturnValue:
    """Set the priority of a request in the waiting line."""

    def act() -> ResponseReturnValue:
        answer(queue_api.move, {"priority": _number("priority")}, session_id=session_id)
        return redirect(url_for("ui.waiting"), 303)

    return _form("move.html", act, lambda: of_session(session_id))


@routes.route("/gpus/<int:index>/cordon", methods=["GET", "POST"])
def cordon(index: int) -> ResponseReturnValue:
    """Keep new sessions off a GPU."""

    def act() -> ResponseReturnValue:
        answer(gpus_api.cordon, {"reason": _typed("reason")}, index=index)
        return redirect(url_for("ui.now"), 303)

    return _form("cordon.html", act, lambda: {"gpu": gpu(index)})


@routes.route("/gpus/<int:index>/uncordon", methods=["GET", "POST"])
def uncordon(index: int) -> ResponseReturnValue:
    """Allow new sessions on a GPU again."""

    def act() -> ResponseReturnValue:
        answer(gpus_api.uncordon, index=index)
        return redirect(url_for("ui.now"), 303)

    return _form("uncordon.html", act, lambda: {"gpu": gpu(index)})


def _form(
    template: str, act: Callable[[], ResponseReturnValue], content: Callable[[], _Json]
) -> ResponseReturnValue:
    if request.method == "GET":
        return page(template, **content())
    try:
        return act()
    except ValidationError as error:
        return page(template, 422, refusals=sentences(error), **content())
    except GatewayError as error:
        return page(template, meaning(error)[0], refusals=[str(error)], **content())


def _session() -> _Json:
    """The body of `POST /sessions`. What was left empty is left out, so that the API's defaults apply."""
    body: _Json = {"user_id": own_user() or _typed("user_id"), "ttl_minutes": _minutes(_typed("ttl"))}
    if wait := _typed("wait"):
        body["wait_minutes"] = _minutes(wait)
    if profile := _typed("mig_profile"):
        body["mig_profile"] = profile
    lines = (line.strip() for line in request.form.get("ssh_public_keys", "").splitlines())
    if keys := [line for line in lines if line]:
        body["ssh_public_keys"] = keys
    return body


def _typed(name: str) -> str:
    return request.form.get(name, "").strip()


def _number(name: str) -> int | str:
    """The number that was typed; what is none stays a text, which the API refuses."""
    text = _typed(name)
    return int(text) if text.lstrip("-").isascii() and text.lstrip("-").isdigit() else text


def _minutes(text: str) -> int:
    """Raises `ValidationError`."""
    try:
        return durations.parse(text) // timedelta(minutes=1)
    except ValueError as error:
        raise ValidationError(str(error)) from error
