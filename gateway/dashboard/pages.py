"""The pages that show something. Their content is what the API answers to the same caller."""

from datetime import UTC, datetime
from typing import Any

from flask import Response, request

from gateway.api import events as events_api
from gateway.api import gpus as gpus_api
from gateway.api import health as health_api
from gateway.api import images as images_api
from gateway.api import queue as queue_api
from gateway.api import sessions as sessions_api
from gateway.api import usage as usage_api
from gateway.api.endpoints import answer
from gateway.api.services import services
from gateway.dashboard.blueprint import routes
from gateway.dashboard.chart import HEIGHT, WIDTH, columns
from gateway.dashboard.polling import polled
from gateway.dashboard.rendering import page
from gateway.dashboard.slice_map import segments
from gateway.errors import GpuNotFound, SessionWaits, Unavailable

_Json = dict[str, Any]
_HOUR = 3600  # seconds
_MOST = 20  # rows of a table beside others
_PER_PAGE = 50  # rows of a table alone


@routes.get("/")
@polled
def now() -> Response:
    """Show the map of the GPUs, what is free and when, and the caller's sessions."""
    at = services().gpus.clock().wall
    free: list[_Json] = []
    gpus, unknown = [], None
    try:
        gpus = [(gpu, list(segments(gpu, at))) for gpu in with_times(answer(gpus_api.list_gpus)["gpus"])]
        free = profiles()
    except Unavailable as error:  # the sessions are in the database, and go on
        unknown = str(error)
    line = _line()  # before the sessions: a request that opens in between is shown twice, not never
    sessions = sorted(_sessions(at), key=lambda each: each["expires_at"])
    return page(
        "now.html",
        gpus=gpus,
        unknown=unknown,
        profiles=free,
        sessions=sessions[:_MOST],
        more=len(sessions[_MOST:]),
        line=line,
        most=_MOST,
    )


@routes.get("/sessions")
@polled
def sessions() -> Response:
    """Show the live sessions that the caller may see."""
    found = _sessions(services().gpus.clock().wall)
    pages = max(1, -(-len(found) // _PER_PAGE))
    number = min(pages, max(1, request.args.get("page", 1, int)))
    shown = found[(number - 1) * _PER_PAGE : number * _PER_PAGE]
    return page("sessions.html", sessions=shown, pages=pages, number_of_page=number)


@routes.get("/sessions/<session_id>")
@polled
def session(session_id: str) -> Response:
    """Show one live session, or a request in the waiting line, with its events."""
    found = of_session(session_id)
    return page("request.html" if found["session"]["status"] == "waiting" else "session.html", **found)


@routes.get("/waiting")
@polled
def waiting() -> Response:
    """Show the waiting line."""
    return page("waiting.html", line=_line())


@routes.get("/events")
@polled
def events() -> Response:
    """Show the latest events, newest first. The query is that of `GET /events`."""
    latest = answer(events_api.list_events)["events"]
    return page("events.html", events=with_times(latest[::-1]))


@routes.get("/usage")
@polled
def usage() -> Response:
    """Show who used the GPUs for how long. The query is that of `GET /usage`."""
    report = answer(usage_api.report)
    lines = [
        {
            "name": line[report["by"]],
            "sessions": line["sessions"],
            "lease_hours": line["lease_seconds"] / _HOUR,
            "gpu_hours": line["gpu_seconds"] / _HOUR,
        }
        for line in report["usage"]
    ]
    bars = list(columns([line["gpu_hours"] for line in lines]))
    return page("usage.html", report=report, lines=lines, bars=bars, width=WIDTH, height=HEIGHT)


@routes.get("/images")
@polled
def images() -> Response:
    """Show the images that sessions can run on."""
    return page("images.html", images=answer(images_api.list_all)["images"])


@routes.get("/health")
@polled
def health() -> Response:
    """Show each part of /readyz, and what to do about those that are not ready."""
    return page("health.html", readiness=answer(health_api.readyz))


def of_open_session(session_id: str) -> _Json:
    """As `of_session`. Raises `SessionWaits` for a request in line."""
    found = of_session(session_id)
    if found["session"]["status"] == "waiting":
        raise SessionWaits(session_id, found["session"]["user_id"])
    return found


def of_session(session_id: str) -> _Json:
    """Return what the templates need of one live session, or of a request in line. Raises `SessionNotFound`,
    `SessionEnded`."""
    at = services().gpus.clock().wall
    found = answer(sessions_api.read, session_id=session_id)
    log = answer(events_api.of_session, session_id=session_id)["events"]
    return {"session": _with_left(found, at), "events": with_times(log[::-1])}


def profiles() -> list[_Json]:
    """Return the profiles with what is free of each, smallest first."""
    return with_times(answer(gpus_api.list_profiles)["profiles"])


def gpu(name: str) -> _Json:
    """Return one GPU, by its label or UUID. Raises `GpuNotFound`."""
    gpus: list[_Json] = answer(gpus_api.list_gpus)["gpus"]
    found = next((each for each in gpus if name in (each["label"], each["uuid"])), None)
    if found is None:
        raise GpuNotFound(name, [each["label"] for each in gpus])
    return found


def with_times(objects: list[_Json]) -> list[_Json]:
    """Return the objects with times instead of their texts."""
    return [{name: _time(name, value) for name, value in each.items()} for each in objects]


def _line() -> list[_Json]:
    return with_times(answer(queue_api.show)["requests"])


def _sessions(at: datetime) -> list[_Json]:
    return [_with_left(each, at) for each in answer(sessions_api.list_live)["sessions"]]


def _with_left(found: _Json, at: datetime) -> _Json:
    [timed] = with_times([found])
    return {**timed, "left": timed["expires_at"] - at if timed["expires_at"] else None}


def _time(name: str, value: Any) -> Any:
    is_time = name in ("at", "wait_until", "cordoned_from") or name.endswith("_at")
    return datetime.fromisoformat(value).astimezone(UTC) if is_time and isinstance(value, str) else value
