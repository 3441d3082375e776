"""/healthz and /readyz: whether the process answers, and whether every part that sessions need is ready."""

from collections.abc import Mapping

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user
from gateway.api.openapi import describes
from gateway.api.responses import HealthResponse, ReadinessResponse
from gateway.errors import GatewayError
from gateway.services.ports import Check


def blueprint(parts: Mapping[str, Check]) -> Blueprint:
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    @describes({200: HealthResponse})
    def healthz() -> ResponseReturnValue:
        """Whether the process answers."""
        return {"status": "ok"}

    @routes.get("/readyz")
    @describes({200: ReadinessResponse, 503: ReadinessResponse})
    def readyz() -> ResponseReturnValue:
        """Whether each part is ready, with one line for each; only administrators get the details."""
        lines, ready, brief = {}, True, own_user() is not None
        for name, check in parts.items():
            try:
                line = check()
                lines[name] = "ok" if brief else line
            except GatewayError as error:
                lines[name], ready = "not ready" if brief else str(error), False
        return {"status": "ready" if ready else "not ready", "parts": lines}, 200 if ready else 503

    return routes
