"""/queue: the waiting line, and the priorities of its requests."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import own_user, require_own
from gateway.api.endpoints import Fields, describes
from gateway.api.pages import fetched, page
from gateway.api.requests import PriorityRequest, QueueRequest
from gateway.api.responses import QueueResponse, WaitingResponse
from gateway.api.services import services
from gateway.services.queue import Place

routes = Blueprint("queue", __name__, url_prefix="/queue")

_response = WaitingResponse()


@routes.get("")
@describes({200: QueueResponse}, query=QueueRequest, problems=(403, 422))
def show(query: Fields) -> ResponseReturnValue:
    """List the waiting requests, of one user or of all, the first one first. Other users' names and ids are
    redacted. `after` is a position; with `limit`, `next` is the `after` of the next page."""
    owner, limit, user_id = own_user(), query["limit"], query["user_id"]
    if user_id is not None:
        require_own(user_id)
    found = services().queue.places(query["after"] or 0, fetched(limit), user_id)
    return page("requests", found, limit, lambda each: _shown(each, owner), lambda each: each.position)


@routes.put("/<session_id>")
@describes({200: WaitingResponse}, body=PriorityRequest, problems=(404, 409, 410, 422, 507))
def move(given: Fields, session_id: str) -> ResponseReturnValue:
    """Set the priority of a waiting request. A higher one overtakes the requests behind its new place."""
    return _shown(services().queue.move(session_id, given["priority"]), None)


def _shown(place: Place, owner: str | None) -> Fields:
    fields: Fields = {**_response.dump(place.request), "position": place.position}
    if owner not in (None, place.request.user_id):
        fields |= {"session_id": None, "user_id": None}
    return fields
