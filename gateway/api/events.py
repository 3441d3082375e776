"""/events and /sessions/{id}/events: the audit log."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user
from gateway.api.openapi import describes
from gateway.api.requests import EventsRequest
from gateway.api.responses import EventResponse, EventsResponse
from gateway.services.events import AuditLog


def blueprint(audit_log: AuditLog) -> Blueprint:
    routes = Blueprint("events", __name__)
    events_request, events_response = EventsRequest(), EventResponse(many=True)

    @routes.get("/events")
    @describes({200: EventsResponse}, query=events_request, problems=(422,))
    def list_events() -> ResponseReturnValue:
        """List the latest events of the gateway, newest last."""
        return {"events": events_response.dump(audit_log.latest(**events_request.load(request.args)))}

    @routes.get("/sessions/<session_id>/events")
    @describes({200: EventsResponse}, problems=(404,))
    def of_session(session_id: str) -> ResponseReturnValue:
        """List the events of a live or ended session, oldest first."""
        return {"events": events_response.dump(audit_log.of_session(session_id, own_user()))}

    return routes
