"""/users/{id}/keys: the public keys stored for a user."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import require_own
from gateway.api.openapi import describes
from gateway.api.requests import KeysRequest
from gateway.api.responses import KeysResponse
from gateway.domain import users
from gateway.errors import InvalidRequest
from gateway.services.ssh_keys import UserKeys


def blueprint(user_keys: UserKeys) -> Blueprint:
    routes = Blueprint("users", __name__, url_prefix="/users")
    keys_request = KeysRequest()

    @routes.get("/<user_id>/keys")
    @describes({200: KeysResponse}, problems=(422,))
    def read(user_id: str) -> ResponseReturnValue:
        """Read the public keys stored for a user."""
        return {"ssh_public_keys": user_keys.get(_checked(user_id))}

    @routes.put("/<user_id>/keys")
    @describes({200: KeysResponse}, body=keys_request, problems=(422, 507))
    def replace(user_id: str) -> ResponseReturnValue:
        """Replace the public keys stored for a user, and those of a live session that uses them."""
        user_id = _checked(user_id)
        given = keys_request.load(request.get_json())
        return {"ssh_public_keys": user_keys.replace(user_id, given["ssh_public_keys"])}

    return routes


def _checked(user_id: str) -> str:
    if problem := users.problem_with(user_id):
        raise InvalidRequest(problem, {"user_id": [problem]})
    require_own(user_id)
    return user_id
