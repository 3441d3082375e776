"""/events and /sessions/{id}/events: who did what, and to which session."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user
from gateway.api.schemas import EventAnswer, EventsRequest
from gateway.trail import Trail


def blueprint(trail: Trail) -> Blueprint:
    routes = Blueprint("events", __name__)
    events_request, events_answer = EventsRequest(), EventAnswer(many=True)

    @routes.get("/events")
    def list_events() -> ResponseReturnValue:
        """The latest of the whole gateway, newest last."""
        return {"events": events_answer.dump(trail.latest(**events_request.load(request.args)))}

    @routes.get("/sessions/<session_id>/events")
    def of_session(session_id: str) -> ResponseReturnValue:
        """Oldest first, after the session's end too."""
        return {"events": events_answer.dump(trail.of_session(session_id, own_user()))}

    return routes
