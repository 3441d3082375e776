"""/healthz and /readyz: is the process alive, and is every part that a session needs there."""

from collections.abc import Mapping

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.answers import HealthAnswer, ReadinessAnswer
from gateway.api.authorisation import own_user
from gateway.api.openapi import describes
from gateway.errors import GatewayError
from gateway.services.ports import Check


def blueprint(parts: Mapping[str, Check]) -> Blueprint:
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    @describes({200: HealthAnswer})
    def healthz() -> ResponseReturnValue:
        """The process answers."""
        return {"status": "ok"}

    @routes.get("/readyz")
    @describes({200: ReadinessAnswer, 503: ReadinessAnswer})
    def readyz() -> ResponseReturnValue:
        """Each part is ready: a line for each; strangers and users are told no more than that."""
        lines, ready, brief = {}, True, own_user() is not None
        for name, check in parts.items():
            try:
                line = check()
                lines[name] = "ok" if brief else line
            except GatewayError as error:
                lines[name], ready = "not ready" if brief else str(error), False
        return {"status": "ready" if ready else "not ready", "parts": lines}, 200 if ready else 503

    return routes
