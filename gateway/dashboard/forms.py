"""The forms: each sends one endpoint of the API what was typed.

A GET shows the form, and what will be lost if it is sent. After a POST the browser is sent to a page, so that
reloading repeats nothing. If the gateway refuses, the form shows the reason, and keeps what was typed.
"""

from typing import Any

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue

from gateway.api import gpus as gpus_api
from gateway.api import images as images_api
from gateway.api import policies as policies_api
from gateway.api import queue as queue_api
from gateway.api import sessions as sessions_api
from gateway.api.authorisation import own_user
from gateway.api.endpoints import answer
from gateway.dashboard.blueprint import routes
from gateway.dashboard.form import form, minutes, number, typed, typed_lines
from gateway.dashboard.pages import gpu, of_open_session, of_session, profiles
from gateway.dashboard.rendering import page

_Json = dict[str, Any]


@routes.route("/create", methods=["GET", "POST"])
def create() -> ResponseReturnValue:
    """Open a session; beyond the user's policy only after a second question. If the gateway made the key
    pair, show the private key, which nobody gets again."""

    def act() -> ResponseReturnValue:
        wanted = _session()
        if "override" in wanted and "confirmed" not in request.form:
            policy = answer(policies_api.of_user, user_id=wanted["user_id"])
            return page("override.html", user_id=wanted["user_id"], policy=policy)
        opened = answer(sessions_api.create, wanted)
        if "ssh_private_key" not in opened:
            return redirect(url_for("ui.session", session_id=opened["session_id"]), 303)
        return page(
            "opened.html", 201, private_key=opened["ssh_private_key"], **of_session(opened["session_id"])
        )

    def content() -> _Json:
        images = answer(images_api.list_all)["images"]
        return {"profiles": profiles(), "images": images, "own_user": own_user()}

    return form("create.html", act, content)


@routes.route("/sessions/<session_id>/extend", methods=["GET", "POST"])
def extend(session_id: str) -> ResponseReturnValue:
    """Extend a lease."""

    def act() -> ResponseReturnValue:
        by = typed("by")
        body = {"minutes": "max" if by == "max" else minutes(by), "override": "override" in request.form}
        if ends := typed("ends"):
            body["ends"] = ends
        answer(sessions_api.extend, body, session_id=session_id)
        return redirect(url_for("ui.session", session_id=session_id), 303)

    return form("extend.html", act, lambda: of_open_session(session_id))


@routes.route("/sessions/<session_id>/end", methods=["GET", "POST"])
def end(session_id: str) -> ResponseReturnValue:
    """End a session."""

    def act() -> ResponseReturnValue:
        body = {"note": note} if (note := typed("note")) else {}
        answer(sessions_api.delete, body, session_id=session_id)
        return redirect(url_for("ui.now"), 303)

    return form("end.html", act, lambda: of_session(session_id))


@routes.route("/sessions/<session_id>/message", methods=["GET", "POST"])
def message(session_id: str) -> ResponseReturnValue:
    """Send a message to the user of a session."""

    def act() -> ResponseReturnValue:
        answer(sessions_api.send_message, {"text": typed("text")}, session_id=session_id)
        return redirect(url_for("ui.session", session_id=session_id), 303)

    return form("message.html", act, lambda: of_open_session(session_id))


@routes.route("/waiting/<session_id>/move", methods=["GET", "POST"])
def move(session_id: str) -> ResponseReturnValue:
    """Set the priority of a request in the waiting line."""

    def act() -> ResponseReturnValue:
        answer(queue_api.move, {"priority": number("priority")}, session_id=session_id)
        return redirect(url_for("ui.waiting"), 303)

    return form("move.html", act, lambda: of_session(session_id))


@routes.route("/gpus/<path:name>/cordon", methods=["GET", "POST"])
def cordon(name: str) -> ResponseReturnValue:
    """Keep new sessions off a GPU."""

    def act() -> ResponseReturnValue:
        answer(gpus_api.cordon, {"reason": typed("reason")}, gpu=name)
        return redirect(url_for("ui.now"), 303)

    return form("cordon.html", act, lambda: {"gpu": gpu(name)})


@routes.route("/gpus/<path:name>/uncordon", methods=["GET", "POST"])
def uncordon(name: str) -> ResponseReturnValue:
    """Allow new sessions on a GPU again."""

    def act() -> ResponseReturnValue:
        answer(gpus_api.uncordon, gpu=name)
        return redirect(url_for("ui.now"), 303)

    return form("uncordon.html", act, lambda: {"gpu": gpu(name)})


def _session() -> _Json:
    """The body of `POST /sessions`. What was left empty is left out, so that the API's defaults apply."""
    body: _Json = {"user_id": own_user() or typed("user_id")}
    if ttl := typed("ttl"):
        body["ttl_minutes"] = minutes(ttl)
    if wait := typed("wait"):
        body["wait_minutes"] = minutes(wait)
    if "override" in request.form:
        body["override"] = True
    if profile := typed("mig_profile"):
        body["mig_profile"] = profile
    if image := typed("image"):
        body["image"] = image
    if keys := typed_lines("ssh_public_keys"):
        body["ssh_public_keys"] = keys
    return body
