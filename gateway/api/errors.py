"""Every error as RFC 9457 problem+json, from one table."""

import logging
from datetime import UTC, datetime
from typing import Any

from flask import Flask, Response, json, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound, RequestEntityTooLarge

from gateway import errors
from gateway.api.authorisation import own_user
from gateway.api.limits import LARGEST_BODY
from gateway.api.responses import utc

log = logging.getLogger(__name__)

# The first matching class decides, so subclasses stand before their parents.
_TABLE: tuple[tuple[type[errors.GatewayError], int, str, str], ...] = (
    (errors.UnknownProfile, 422, "unknown-profile", "No GPU has this MIG profile"),
    (errors.InvalidRequest, 422, "invalid-request", "The request is invalid"),
    (errors.Unauthenticated, 401, "unauthenticated", "A valid token is needed"),
    (errors.ForeignOrigin, 403, "foreign-origin", "A web page may not use this API"),
    (errors.UntrustedHost, 421, "untrusted-host", "Not a host name of this gateway"),
    (errors.TooManyChanges, 429, "too-many-changes", "Too many changes"),
    (errors.Forbidden, 403, "forbidden", "The token does not allow this"),
    (errors.TooManyFailures, 429, "too-many-failures", "Too many failed authentications"),
    (errors.GpuNotFound, 404, "gpu-not-found", "The GPU does not exist"),
    (errors.UserNotFound, 404, "user-not-found", "The user is unknown"),
    (errors.PolicyNotFound, 404, "policy-not-found", "The policy does not exist"),
    (errors.PolicyRefused, 403, "policy", "The policy does not allow this"),
    (errors.WebhookNotFound, 404, "webhook-not-found", "The webhook does not exist"),
    (errors.WebhookOff, 409, "webhook-off", "The webhook is off"),
    (errors.DeliveryNotFound, 404, "delivery-not-found", "The delivery does not exist"),
    (errors.SessionWaits, 409, "session-waits", "The session is not open yet"),
    (errors.NotInLine, 409, "not-in-line", "The session does not wait in line"),
    (errors.SessionNotFound, 404, "session-not-found", "The session does not exist"),
    (errors.SessionEnded, 410, "session-ended", "The session has ended"),
    (errors.LeaseMoved, 409, "lease-moved", "The lease has another end"),
    (errors.LeaseTooLong, 403, "policy", "The lease would become too long"),
    (errors.WaitedFor, 409, "waited-for", "The slice was promised to somebody else"),
    (errors.SessionExists, 409, "session-exists", "The user has a live session"),
    (errors.UserRouted, 409, "user-routed", "A hand-written pipe routes the user"),
    (errors.NoCapacity, 503, "no-capacity", "No GPU slice is free"),
    (errors.DatabaseUnavailable, 503, "database-unavailable", "The session database does not answer"),
    (errors.DockerUnavailable, 503, "docker-unavailable", "Docker does not answer"),
    (errors.KubernetesUnavailable, 503, "kubernetes-unavailable", "Kubernetes does not answer"),
    (errors.ImageMissing, 503, "image-missing", "The session image is missing"),
    (errors.NetworkUnavailable, 503, "network-unavailable", "The sessions' network is not ready"),
    (errors.ContainerFailed, 503, "container-failed", "The session's container did not start"),
    (errors.GpuLost, 503, "gpu-lost", "A GPU is lost"),
    (errors.DriverUnavailable, 503, "driver-unavailable", "The GPU driver does not answer"),
    (errors.SliceBusy, 503, "slice-busy", "A GPU instance is busy"),
    (errors.PlacementTaken, 503, "placement-taken", "Another GPU instance occupies the placement"),
    (errors.PipesUnavailable, 503, "pipes-unavailable", "The SSH routes cannot be published"),
    (errors.WorkspaceRefused, 503, "workspace-refused", "The workspace cannot be used"),
    (errors.WorkspaceFull, 507, "workspace-full", "The user's workspace is full"),
    (errors.DiskFull, 507, "disk-full", "A disk is full"),
    (errors.GatewayError, 503, "unavailable", "The gateway cannot do this now"),
)


def problem(status: int, kind: str, title: str, detail: str, **members: Any) -> Response:
    body = {"type": f"/problems/{kind}", "title": title, "status": status, "detail": detail, **members}
    return Response(json.dumps(body) + "\n", status, content_type="application/problem+json")


def register(app: Flask) -> None:
    app.register_error_handler(errors.GatewayError, _gateway_error)
    app.register_error_handler(ValidationError, _validation_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(RecursionError, _too_deep)
    app.register_error_handler(Exception, _defect)


def meaning(error: errors.GatewayError) -> tuple[int, str, str]:
    """Return the HTTP status, the kind and the title of an error."""
    return next(row[1:] for row in _TABLE if isinstance(error, row[0]))


def _gateway_error(error: errors.GatewayError) -> Response:
    status, kind, title = meaning(error)
    response = problem(status, kind, title, str(error), **_members(error))
    response.headers.update(_headers(error))
    return response


def _headers(error: errors.GatewayError) -> dict[str, str]:
    match error:
        case errors.NoCapacity(retry_at=datetime() as retry_at):
            wait = (retry_at - datetime.now(UTC)).total_seconds()
            return {"Retry-After": str(max(1, round(wait)))}
        case errors.TooManyFailures() | errors.TooManyChanges():
            return {"Retry-After": str(error.wait_seconds)}
        case errors.Unauthenticated():
            return {"WWW-Authenticate": "Bearer" + (' error="invalid_token"' if error.given else "")}
    return {}


def _members(error: errors.GatewayError) -> dict[str, Any]:
    match error:
        case errors.UnknownProfile():
            return {"errors": error.errors, "available_profiles": error.available_profiles}
        case errors.InvalidRequest():
            return {"errors": error.errors}
        case errors.SessionExists():
            return {"session_id": error.session_id}
        case errors.LeaseMoved():
            return {"expires_at": utc(error.expires_at)}
        case errors.WaitedFor():
            return _promise(error)
        case errors.LeaseTooLong():
            latest_end = error.latest_end
            facts = {"rule": error.rule, "limit": error.limit}
            return {**facts, "max_expires_at": utc(latest_end) if latest_end else None}
        case errors.PolicyRefused():
            retry_at = error.retry_at
            refused = {"rule": error.rule, "limit": error.limit, "used": error.used}
            return {**refused, "retry_at": utc(retry_at) if retry_at else None}
        case errors.SessionEnded():
            return {"reason": error.reason, "ended_at": utc(error.ended_at), "note": error.note}
        case errors.NoCapacity(retry_at=datetime() as retry_at):
            return {"retry_at": utc(retry_at)}
    return {}


def _promise(error: errors.WaitedFor) -> dict[str, Any]:
    latest_end = error.latest_end
    return {"max_expires_at": utc(latest_end) if latest_end else None, "waiting": waiting_for(error.waiting)}


def waiting_for(promise: errors.Promise | None) -> dict[str, Any] | None:
    """Return who waits, in the form of a response. Only operators read the name."""
    if promise is None:
        return None
    at = promise.promised_at
    return {
        "user_id": promise.user_id if own_user() in (None, promise.user_id) else None,
        "mig_profile": promise.mig_profile,
        "promised_at": utc(at) if at else None,
    }


def _validation_error(error: ValidationError) -> Response:
    fields = error.normalized_messages()  # type: ignore[no-untyped-call]
    wrong = [f"{name}{_reason(fields[name])}" for name in sorted(fields, key=str)]
    detail = f"Correct these fields: {', '.join(wrong)}."
    if "_schema" in fields:  # the value is none that has fields
        detail = "The body must be a JSON object: send one with fields, in braces."
    return problem(422, "invalid-request", "The request is invalid", detail, errors=fields)


def _reason(messages: object) -> str:
    """What is wrong with a field, in parentheses; nothing if each of its parts has messages of its own."""
    first = messages[0] if isinstance(messages, list) else None
    return f" ({first.rstrip('.')})" if isinstance(first, str) else ""


def _http_error(error: HTTPException) -> Response:
    status, title = error.code or 500, error.name
    response = problem(status, title.lower().replace(" ", "-"), title, explanation(error))
    for name, value in error.get_headers():
        if name.lower() not in {"content-type", "content-length"}:
            response.headers[name] = value
    return response


def explanation(error: HTTPException) -> str:
    """What is wrong and what to do, for an error that Flask or werkzeug has raised."""
    path = "".join(each if each.isprintable() else "?" for each in request.path[:200])
    match error:
        case NotFound():
            pages = "the web pages begin at /ui/"
            return f"The gateway has no path {path}. GET /openapi.json describes those of the API; {pages}."
        case MethodNotAllowed(valid_methods=methods):
            usual = sorted({*(methods or ())} - {"HEAD", "OPTIONS"})
            return f"{path} does not take {request.method}: use {' or '.join(usual)}."
        case RequestEntityTooLarge():
            return f"A body has at most {LARGEST_BODY // 1024} KiB: send a smaller one."
    return str(error.description)


def _too_deep(_error: RecursionError) -> Response:
    """The JSON parser raises `RecursionError` for deeply nested bodies; no code of the gateway recurses."""
    return problem(400, "bad-request", "Bad Request", "The JSON is nested too deeply: send flat JSON.")


def _defect(error: Exception) -> Response:
    session_id = (request.view_args or {}).get("session_id")
    fields = {"endpoint": request.endpoint, "session_id": session_id}
    log.error("a request failed with an internal error", exc_info=error, extra=fields)
    return problem(
        500,
        "defect",
        "Internal error",
        "This is a bug in the gateway; its log has the details. Check the state of the session before you "
        "send the request again.",
    )
