"""/policies: who may have how much."""

from flask import Blueprint
from flask.typing import ResponseReturnValue

from gateway.api.endpoints import Fields, describes
from gateway.api.requests import PolicyRequest
from gateway.api.responses import PoliciesResponse, PolicyResponse, UserPolicyResponse
from gateway.api.services import services
from gateway.api.users import for_own_user
from gateway.domain.policies import Rules

routes = Blueprint("policies", __name__)

_response = PolicyResponse()


@routes.get("/policies")
@describes({200: PoliciesResponse})
def list_all() -> ResponseReturnValue:
    """List the policies with their rules."""
    return {"policies": [_shown(name, rules) for name, rules in services().policies.all().items()]}


@routes.get("/policies/<name>")
@describes({200: PolicyResponse}, problems=(404,))
def read(name: str) -> ResponseReturnValue:
    """Read a policy."""
    return _shown(name, services().policies.get(name))


@routes.put("/policies/<name>")
@describes({200: PolicyResponse}, body=PolicyRequest, problems=(422, 507))
def change(given: Fields, name: str) -> ResponseReturnValue:
    """Make these the rules of a policy. A rule that is left out does not hold any more."""
    return _shown(name, services().policies.set(name, given))


@routes.delete("/policies/<name>")
@describes({204: None}, problems=(404, 507))
def remove(name: str) -> ResponseReturnValue:
    """Remove a policy."""
    services().policies.remove(name)
    return "", 204


@routes.get("/users/<user_id>/policy")
@for_own_user
@describes({200: UserPolicyResponse}, problems=(422,))
def of_user(user_id: str) -> ResponseReturnValue:
    """Read the rules that hold for a user, where each comes from, and the GPU-hours of this week."""
    policy, hours = services().policies.of_user(user_id)
    rules = {
        rule: {"value": value, "from": policy.sources[rule]} for rule, value in sorted(policy.rules.items())
    }
    return {"user_id": user_id, "rules": rules, "gpu_hours_of_week": round(hours, 2)}


def _shown(name: str, rules: Rules) -> Fields:
    return {**_response.dump({"name": name, **dict.fromkeys(_RULES), **rules})}


_RULES = [field for field in _response.fields if field != "name"]
