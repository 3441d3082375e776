"""/events and /sessions/{id}/events: the audit log."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user
from gateway.api.endpoints import Fields, describes
from gateway.api.requests import EventsRequest
from gateway.api.responses import EventResponse, EventsResponse
from gateway.api.services import services

routes = Blueprint("events", __name__)

_response = EventResponse(many=True)


@routes.get("/events")
@describes({200: EventsResponse}, query=EventsRequest, problems=(422,))
def list_events(query: Fields) -> ResponseReturnValue:
    """List the latest events of the gateway, newest last. With `after`, the id of an event, list the first
    ones behind it."""
    return {"events": _response.dump(services().audit_log.latest(**query))}


@routes.get("/sessions/<session_id>/events")
@describes({200: EventsResponse}, problems=(404,))
def of_session(session_id: str) -> ResponseReturnValue:
    """List the events of a live or ended session, oldest first."""
    return {"events": _response.dump(services().audit_log.of_session(session_id, own_user()))}
