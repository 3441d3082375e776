"""/healthz and /readyz: whether the process answers, and whether every part that sessions need is ready."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user
from gateway.api.endpoints import describes
from gateway.api.responses import HealthResponse, ReadinessResponse
from gateway.api.services import services
from gateway.services.readiness import Result

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
    details = own_user() is None
    readiness = services().readiness
    results = readiness.examine() if details else readiness.recent()
    is_ready = all(result.is_ready for result in results.values())
    parts = {name: result.line if details else _brief(result) for name, result in results.items()}
    return {"status": "ready" if is_ready else "not ready", "parts": parts}, 200 if is_ready else 503


def _brief(result: Result) -> str:
    return "ok" if result.is_ready else "not ready"
