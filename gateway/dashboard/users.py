"""The users with their keys and groups, the policies, and what is used of each quota."""

from typing import Any

from flask import Response, redirect, request, url_for
from flask.typing import ResponseReturnValue

from gateway.api import policies as policies_api
from gateway.api import users as users_api
from gateway.api.endpoints import answer
from gateway.dashboard.blueprint import routes
from gateway.dashboard.form import decimal, form, number, typed, typed_lines
from gateway.dashboard.rendering import page
from gateway.domain.policies import Rule
from gateway.domain.ssh_keys import fingerprint
from gateway.domain.usage import hours
from gateway.errors import PolicyNotFound, UserNotFound

_Json = dict[str, Any]
NOTHING = "none"  # typed in a field for names: nothing is allowed
_LISTS = (Rule.PROFILES, Rule.IMAGES)
_PER_PAGE = 100  # users, as `GET /users` answers without a limit


@routes.get("/users")
def users() -> ResponseReturnValue:
    """Show the users and the policies. With `user_id`, go to the page of this user."""
    if user_id := request.args.get("user_id", "").strip():
        return redirect(url_for("ui.user", user_id=user_id), 303)
    found = answer(users_api.list_all)["users"]
    after = found[-1]["user_id"] if len(found) == _PER_PAGE else None
    return page("users.html", users=found, after=after, policies=answer(policies_api.list_all)["policies"])


@routes.get("/users/<user_id>")
def user(user_id: str) -> Response:
    """Show a user: group, keys, the rules that hold, and what is used of each quota."""
    return page("user.html", **_of_user(user_id))


@routes.route("/users/<user_id>/change", methods=["GET", "POST"])
def change_user(user_id: str) -> ResponseReturnValue:
    """Set the group and the address of a user."""

    def act() -> ResponseReturnValue:
        body = {"group": typed("group") or None, "email": typed("email") or None}
        answer(users_api.change, body, user_id=user_id)
        return redirect(url_for("ui.user", user_id=user_id), 303)

    return form("change-user.html", act, lambda: _of_user(user_id))


@routes.route("/users/<user_id>/keys", methods=["GET", "POST"])
def change_keys(user_id: str) -> ResponseReturnValue:
    """Replace the stored keys of a user."""

    def act() -> ResponseReturnValue:
        answer(users_api.replace, {"ssh_public_keys": typed_lines("ssh_public_keys")}, user_id=user_id)
        return redirect(url_for("ui.user", user_id=user_id), 303)

    return form("change-keys.html", act, lambda: _of_user(user_id))


@routes.route("/policies/set", methods=["GET", "POST"])
def set_policy() -> ResponseReturnValue:
    """Make or change a policy, whose name is in the form, or for the form in the query."""

    def act() -> ResponseReturnValue:
        answer(policies_api.change, _rules(), name=typed("name"))
        return redirect(url_for("ui.users"), 303)

    def content() -> _Json:
        name = request.args.get("name", "")
        return {"name": name, "policy": {**_shown(name), **request.form}, "rules": list(Rule)}

    return form("set-policy.html", act, content)


@routes.route("/policies/<name>/remove", methods=["GET", "POST"])
def remove_policy(name: str) -> ResponseReturnValue:
    """Remove a policy."""

    def act() -> ResponseReturnValue:
        answer(policies_api.remove, name=name)
        return redirect(url_for("ui.users"), 303)

    return form("remove-policy.html", act, lambda: {"policy": answer(policies_api.read, name=name)})


def _of_user(user_id: str) -> _Json:
    policy = answer(policies_api.of_user, user_id=user_id)
    keys = answer(users_api.read, user_id=user_id)["ssh_public_keys"]
    return {"user": _known(user_id), "policy": policy, "keys": [(key, fingerprint(key)) for key in keys]}


def _known(user_id: str) -> _Json:
    """A user whom the gateway does not know yet has nothing."""
    try:
        return answer(users_api.show, user_id=user_id)
    except UserNotFound:
        return {"user_id": user_id, "group": None, "email": None, "workspace_bytes": None}


def _shown(name: str) -> _Json:
    """The rules of a policy as texts for the form; of a policy that is new, none."""
    try:
        found = answer(policies_api.read, name=name)
    except PolicyNotFound:
        return {}
    return {rule: _text(value) for rule, value in found.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or NOTHING
    return hours(value) if isinstance(value, float) else str(value).lower()


def _rules() -> _Json:
    """The body of `PUT /policies/{name}`. What was left empty does not hold."""
    return {rule: _rule(rule) for rule in Rule if typed(rule)}


def _rule(rule: Rule) -> Any:
    if rule in _LISTS:
        return [] if typed(rule) == NOTHING else typed(rule).replace(",", " ").split()
    if rule is Rule.MAY_START:
        return {"true": True, "false": False}.get(typed(rule), typed(rule))
    return decimal(rule) if rule is Rule.GPU_HOURS_PER_WEEK else number(rule)
