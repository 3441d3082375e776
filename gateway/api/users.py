"""/users/{id}/keys: the public keys that are stored for a user."""

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from gateway.api.answers import KeysAnswer
from gateway.api.authorisation import require_own
from gateway.api.openapi import describes
from gateway.api.requests import KeysRequest
from gateway.domain import users
from gateway.errors import InvalidRequest
from gateway.services.ssh_keys import UserKeys


def blueprint(user_keys: UserKeys) -> Blueprint:
    routes = Blueprint("users", __name__, url_prefix="/users")
    keys_request = KeysRequest()

    @routes.get("/<user_id>/keys")
    @describes({200: KeysAnswer}, problems=(422,))
    def read(user_id: str) -> ResponseReturnValue:
        """The public keys stored for a user."""
        return {"ssh_public_keys": user_keys.get(_checked(user_id))}

    @routes.put("/<user_id>/keys")
    @describes({200: KeysAnswer}, body=keys_request, problems=(422, 507))
    def replace(user_id: str) -> ResponseReturnValue:
        """Store these, for the next session, and at once for a live one that stored keys opened."""
        user_id = _checked(user_id)
        wanted = keys_request.load(request.get_json())
        return {"ssh_public_keys": user_keys.replace(user_id, wanted["ssh_public_keys"])}

    return routes


def _checked(user_id: str) -> str:
    if problem := users.problem_with(user_id):
        raise InvalidRequest(problem, {"user_id": [problem]})
    require_own(user_id)
    return user_id
