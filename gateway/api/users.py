"""/users: all users; /users/{id}: the group and the address of a user, and the user's public keys."""

import functools
from typing import Any

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.authorisation import require_own
from gateway.api.endpoints import Fields, View, describes
from gateway.api.requests import KeysRequest, UserRequest, UsersRequest
from gateway.api.responses import KeysResponse, UserResponse, UsersResponse
from gateway.api.services import services
from gateway.domain import users
from gateway.domain.models import User
from gateway.domain.policies import Rule
from gateway.domain.ssh_keys import fingerprint
from gateway.errors import InvalidRequest
from gateway.services.users import UserOverview

routes = Blueprint("users", __name__, url_prefix="/users")

_response = UserResponse()


def for_own_user(view: View) -> View:
    """Refuse an invalid user id, and one that the caller may not act for, before the body is read."""

    @functools.wraps(view)
    def check_and_call(user_id: str, **others: Any) -> ResponseReturnValue:
        if problem := users.problem_with(user_id):
            raise InvalidRequest(f"{user_id[:100]!r} cannot be a user id. {problem}", {"user_id": [problem]})
        require_own(user_id)
        return view(user_id=user_id, **others)

    return check_and_call


@routes.get("")
@describes({200: UsersResponse}, query=UsersRequest, problems=(422,))
def list_all(query: Fields) -> ResponseReturnValue:
    """List the users by name, with the fingerprints of their keys and what they have used."""
    return {"users": [_overview(each) for each in services().users.list(**query)]}


@routes.get("/<user_id>")
@for_own_user
@describes({200: UserResponse}, problems=(404, 422))
def show(user_id: str) -> ResponseReturnValue:
    """Read the group of a user, and the address for mail."""
    return _shown(services().users.get(user_id))


@routes.put("/<user_id>")
@for_own_user
@describes({200: UserResponse}, body=UserRequest, problems=(422, 507))
def change(given: Fields, user_id: str) -> ResponseReturnValue:
    """Set the group of a user, and the address for mail. What is left out is removed."""
    return _shown(services().users.change(user_id, given["group"], given["email"]))


@routes.get("/<user_id>/keys")
@for_own_user
@describes({200: KeysResponse}, problems=(422,))
def read(user_id: str) -> ResponseReturnValue:
    """Read the public keys stored for a user."""
    return {"ssh_public_keys": services().user_keys.get(user_id)}


@routes.put("/<user_id>/keys")
@for_own_user
@describes({200: KeysResponse}, body=KeysRequest, problems=(422, 507))
def replace(given: Fields, user_id: str) -> ResponseReturnValue:
    """Replace the public keys stored for a user, and those of a live session that uses them."""
    return {"ssh_public_keys": services().user_keys.replace(user_id, given["ssh_public_keys"])}


def _shown(user: User) -> Fields:
    return {**_response.dump(user), "workspace_quota_bytes": services().sessions.quota.size}


def _overview(found: UserOverview) -> Fields:
    return {
        **_shown(found.user),
        "fingerprints": [fingerprint(key) for key in found.user.public_keys],
        "gpu_hours_of_week": round(found.gpu_hours, 2),
        "gpu_hours_per_week": found.policy.rules.get(Rule.GPU_HOURS_PER_WEEK),
    }
