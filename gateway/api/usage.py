"""/usage: how much of the GPUs each user, group, profile or day had."""

import csv
import io
from collections.abc import Sequence

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user
from gateway.api.endpoints import Fields, Text, describes
from gateway.api.requests import UsageRequest
from gateway.api.responses import UsageResponse
from gateway.api.services import services
from gateway.domain.usage import By, Line
from gateway.errors import InvalidRequest

routes = Blueprint("usage", __name__)

_response = UsageResponse()
_COLUMNS = {By.USER: ("user", "group"), By.GROUP: ("group",), By.PROFILE: ("profile",), By.DAY: ("day",)}
_HOUR = 3600


@routes.get("/usage")
@describes({200: Text("text/csv", schema=UsageResponse)}, query=UsageRequest, problems=(422,))
def report(query: Fields) -> ResponseReturnValue:
    """Report the sessions, lease hours and GPU-hours of some days, as JSON or as CSV."""
    today = services().usage.today()
    since, until = query["since"] or today.replace(day=1), query["until"] or today
    if since > until:
        message = f"since ({since}) is after until ({until}): exchange them."
        raise InvalidRequest(message, {"since": [message]})
    by = By(query["by"])
    lines = services().usage.lines(since, until, by, own_user())
    if request.accept_mimetypes.best_match(["application/json", "text/csv"]) == "text/csv":
        return Response(_csv(lines, by), content_type="text/csv; charset=utf-8")
    return {**_response.dump({"since": since, "until": until, "by": by, "usage": lines})}


def _csv(lines: Sequence[Line], by: By) -> str:
    written = io.StringIO()
    table = csv.writer(written, lineterminator="\r\n")  # RFC 4180
    table.writerow([*_COLUMNS[by], "sessions", "lease_hours", "gpu_hours", "idle_hours"])
    for line in lines:
        seconds = (line.lease_seconds, line.gpu_seconds, line.idle_seconds)
        hours = [f"{each / _HOUR:.2f}" for each in seconds]
        table.writerow([*(getattr(line, name) for name in _COLUMNS[by]), line.sessions, *hours])
    return written.getvalue()
