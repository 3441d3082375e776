"""/sessions: open, list, read, extend and close sessions."""

from datetime import timedelta

from flask import Blueprint, url_for
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user, require_operator, require_own
from gateway.api.endpoints import Fields, describes
from gateway.api.errors import waiting_for
from gateway.api.pages import fetched, page
from gateway.api.requests import (
    EndRequest,
    ExtensionRequest,
    KeepRequest,
    KeysRequest,
    MessageRequest,
    SessionCursor,
    SessionRequest,
    SessionsRequest,
)
from gateway.api.responses import (
    ActivityResponse,
    KeysResponse,
    MessageResponse,
    OpenedResponse,
    SessionResponse,
    SessionsResponse,
    utc,
)
from gateway.api.services import services
from gateway.domain.lease import Extension
from gateway.domain.live_session import ListedSession
from gateway.domain.models import Session
from gateway.errors import NoCapacity
from gateway.services.idle import Activity
from gateway.services.queue import Place

routes = Blueprint("sessions", __name__, url_prefix="/sessions")

_response, _activity_response = SessionResponse(), ActivityResponse()


def _session_request() -> SessionRequest:
    return SessionRequest(services().max_ttl_minutes)


@routes.post("")
@describes(
    {201: OpenedResponse, 202: OpenedResponse}, body=_session_request, problems=(403, 409, 410, 422, 507)
)
def create(given: Fields) -> ResponseReturnValue:
    """Open a session: 201 when the user can log in. With `wait_minutes`, 202 if the request waits in line."""
    require_own(given["user_id"])
    if given["override"]:
        require_operator("override")
    minutes, wait, sessions = given["ttl_minutes"], given["wait_minutes"], services().sessions
    wanted = sessions.wanted(
        given["user_id"],
        None if minutes is None else timedelta(minutes=minutes),
        given["mig_profile"],
        given["ssh_public_keys"],
        given["override"],
        given["image"],
        timedelta(minutes=wait),
    )
    try:
        opened = sessions.open_wanted(wanted)
    except NoCapacity:
        if not wait:
            raise
        place = services().queue.join(wanted)
        return _created(_waiting(place), place.private_key, 202)
    return _created(_shown(opened.session), opened.private_key, 201)


@routes.get("")
@describes({200: SessionsResponse}, query=SessionsRequest, problems=(403, 422))
def list_live(query: Fields) -> ResponseReturnValue:
    """List the live sessions, of one user or of all, oldest first. With `limit`, `next` is the `after` of the
    next page."""
    limit, user_id = query["limit"], query["user_id"] or own_user()
    if user_id is not None:
        require_own(user_id)
    found = services().sessions.list(user_id, query["after"], fetched(limit))
    return page("sessions", found, limit, _shown, lambda each: SessionCursor.of(each.created_at, each.id))


@routes.get("/<session_id>")
@describes({200: SessionResponse}, problems=(404, 410))
def read(session_id: str) -> ResponseReturnValue:
    """Read a live session, or a request that waits for one."""
    found = services().queue.find(session_id, own_user())
    return _waiting(found) if isinstance(found, Place) else _shown(found)


@routes.post("/<session_id>/extend")
@describes({200: SessionResponse}, body=ExtensionRequest, problems=(403, 404, 409, 410, 422, 507))
def extend(given: Fields, session_id: str) -> ResponseReturnValue:
    """Extend the lease of a live session."""
    if given["override"]:
        require_operator("override")
    by = None if given["minutes"] is None else timedelta(minutes=given["minutes"])
    extension = Extension(by, given["ends"], given["override"])
    return _shown(services().leases.extend(session_id, extension, own_user()))


@routes.get("/<session_id>/activity")
@describes({200: ActivityResponse}, problems=(404, 409, 410))
def activity(session_id: str) -> ResponseReturnValue:
    """Whether anybody uses a live session, by each signal, and when it ends for that."""
    return _activity(services().idle.activity(session_id, own_user()))


@routes.post("/<session_id>/keep")
@describes({200: ActivityResponse}, body=KeepRequest, problems=(403, 404, 409, 410, 422, 507))
def keep(given: Fields, session_id: str) -> ResponseReturnValue:
    """Do not end a session for idleness for so many minutes."""
    by = timedelta(minutes=given["minutes"])
    return _activity(services().idle.keep(session_id, by, own_user()))


@routes.post("/<session_id>/message")
@describes({200: MessageResponse}, body=MessageRequest, problems=(404, 409, 410, 422, 507))
def send_message(given: Fields, session_id: str) -> ResponseReturnValue:
    """Show the user a message: on every terminal of the session, and at each login."""
    return {"terminals": services().messages.send(session_id, given["text"])}


@routes.put("/<session_id>/keys")
@describes({200: KeysResponse}, body=KeysRequest, problems=(404, 409, 410, 422, 507))
def replace_keys(given: Fields, session_id: str) -> ResponseReturnValue:
    """Replace the public keys of a live session, and close connections of revoked keys."""
    keys = services().user_keys.replace_in_session(session_id, given["ssh_public_keys"])
    return {"ssh_public_keys": keys}


@routes.delete("/<session_id>")
@describes({204: None, 202: SessionResponse}, optional_body=EndRequest, problems=(404, 410, 422, 507))
def delete(given: Fields, session_id: str) -> ResponseReturnValue:
    """Close a session, or give a place in line up: 204 when everything is removed, 202 if the gateway must
    repeat a step."""
    closing = services().queue.end(session_id, own_user(), given["note"])
    return (_shown(closing), 202) if closing else ("", 204)


def _activity(found: Activity) -> Fields:
    reading, session = found.reading, found.session
    state = "unknown" if reading is None else "idle" if reading.is_idle else "active"
    return {
        **_activity_response.dump(
            {
                "session_id": session.id,
                "state": state if found.is_watched else "off",
                "policy": found.policy,
                "read_at": reading.at if reading else None,
                "idle_since": session.idle_since,
                "ends_at": found.ends_at,
                "keep_until": session.keep_until,
                "expires_at": session.expires_at,
                "waiting": waiting_for(found.waiting),
                "signals": reading.signals if reading else (),
            }
        )
    }


def _shown(session: Session | ListedSession) -> Fields:
    """Return the session as every response shows it."""
    fields: Fields = _response.dump(session)
    latest_end = services().leases.limit.latest_end(session)
    fields["max_expires_at"] = utc(latest_end) if latest_end else None
    return {**fields, **services().entry_point.describe(session.user_id)}


def _waiting(place: Place) -> Fields:
    """Return a request in line in the form of a session that has nothing yet."""
    request = place.request
    fields: Fields = dict.fromkeys(_response.fields)
    fields |= _response.dump(
        {
            "id": request.id,
            "user_id": request.user_id,
            "mig_profile": request.mig_profile,
            "status": "waiting",
            "created_at": request.asked_at,
            "extended_minutes": 0,
            "position": place.position,
            "priority": request.priority,
            "promised_at": request.starts_at,
            "wait_until": request.wait_until,
        }
    )
    return {**fields, **services().entry_point.describe(request.user_id)}


def _created(body: Fields, private_key: str | None, status: int) -> ResponseReturnValue:
    if private_key is not None:
        body["ssh_private_key"] = private_key
    path = url_for("sessions.read", session_id=body["session_id"])  # with the path of --public-url
    return body, status, {"Location": services().public_origin + path}
