"""/events and /sessions/{id}/events: who did what, and to which session."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from gateway.api.answers import EventAnswer, EventsAnswer
from gateway.api.authorisation import own_user
from gateway.api.openapi import describes
from gateway.api.requests import EventsRequest
from gateway.services.events import AuditLog


def blueprint(trail: AuditLog) -> Blueprint:
    routes = Blueprint("events", __name__)
    events_request, events_answer = EventsRequest(), EventAnswer(many=True)

    @routes.get("/events")
    @describes({200: EventsAnswer}, query=events_request, problems=(422,))
    def list_events() -> ResponseReturnValue:
        """Who did what: the latest of the whole gateway, newest last."""
        return {"events": events_answer.dump(trail.latest(**events_request.load(request.args)))}

    @routes.get("/sessions/<session_id>/events")
    @describes({200: EventsAnswer}, problems=(404,))
    def of_session(session_id: str) -> ResponseReturnValue:
        """Who did what to a session, oldest first, after its end too."""
        return {"events": events_answer.dump(trail.of_session(session_id, own_user()))}

    return routes
