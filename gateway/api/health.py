"""/healthz and /readyz: is the process alive, and is every part that a session needs there."""

from collections.abc import Mapping

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user
from gateway.errors import GatewayError
from gateway.readiness import Check


def blueprint(parts: Mapping[str, Check]) -> Blueprint:
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> ResponseReturnValue:
        return {"status": "ok"}

    @routes.get("/readyz")
    def readyz() -> ResponseReturnValue:
        """A line a part, for strangers and users just ok or not; 503 when one is not ready."""
        lines, ready, brief = {}, True, own_user() is not None
        for name, check in parts.items():
            try:
                line = check()
                lines[name] = "ok" if brief else line
            except GatewayError as error:
                lines[name], ready = "not ready" if brief else str(error), False
        return {"status": "ready" if ready else "not ready", "parts": lines}, 200 if ready else 503

    return routes
