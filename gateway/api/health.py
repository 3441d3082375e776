"""/healthz and /readyz: whether the process answers, and whether every part that sessions need is ready."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user
from gateway.api.endpoints import describes
from gateway.api.responses import HealthResponse, ReadinessResponse
from gateway.api.services import services
from gateway.errors import GatewayError
from gateway.services.ports import Check

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
    results = {name: _run(check) for name, check in services().checks.items()}
    is_ready = all(ready for ready, _ in results.values())
    parts = {name: line if details else _brief(ready) for name, (ready, line) in results.items()}
    return {"status": "ready" if is_ready else "not ready", "parts": parts}, 200 if is_ready else 503


def _run(check: Check) -> tuple[bool, str]:
    try:
        return True, check()
    except GatewayError as error:
        return False, str(error)


def _brief(ready: bool) -> str:
    return "ok" if ready else "not ready"
