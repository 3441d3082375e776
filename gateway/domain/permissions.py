"""The permissions: one table of endpoints and roles. An endpoint that is not in it is denied to all."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    ADMIN = "admin"
    OPERATOR = "operator"
    USER = "user"
    MONITOR = "monitor"  # programs that watch the gateway
    SESSION = "session"  # a program in a user's own session
    NOBODY = "nobody"  # a request without a token when one is needed


TOKEN_ROLES = (Role.ADMIN, Role.OPERATOR, Role.USER, Role.MONITOR)


class Scope(StrEnum):
    ALL = "all"
    OWN = "own"  # the caller's own objects; other users' names are redacted


_ALL = {Role.ADMIN: Scope.ALL, Role.OPERATOR: Scope.ALL}
_ALL_AND_OWN = {**_ALL, Role.USER: Scope.OWN}
_AND_IN_SESSION = {**_ALL_AND_OWN, Role.SESSION: Scope.OWN}

_RULES_OF_THE_API: Mapping[str, Mapping[Role, Scope]] = {
    "sessions.create": _ALL_AND_OWN,
    "sessions.list_live": _AND_IN_SESSION,
    "sessions.read": _AND_IN_SESSION,
    "sessions.delete": _AND_IN_SESSION,
    "sessions.extend": _AND_IN_SESSION,
    "sessions.activity": _AND_IN_SESSION,
    "sessions.keep": _AND_IN_SESSION,
    "sessions.send_message": _ALL,
    "sessions.replace_keys": _ALL,
    "queue.show": _ALL_AND_OWN,
    "queue.move": _ALL,
    "users.list_all": _ALL,
    "users.read": _ALL_AND_OWN,
    "users.replace": _ALL_AND_OWN,
    "users.show": _ALL_AND_OWN,
    "users.change": _ALL,
    "usage.report": _ALL_AND_OWN,
    "gpus.list_gpus": _ALL_AND_OWN,
    "gpus.list_profiles": {**_ALL, Role.USER: Scope.ALL},
    "gpus.fit": _ALL_AND_OWN,
    "gpus.cordon": _ALL,
    "gpus.uncordon": _ALL,
    "events.list_events": _ALL,
    "events.of_session": _ALL_AND_OWN,
    "images.list_all": {**_ALL, Role.USER: Scope.ALL},
    "policies.list_all": _ALL,
    "policies.read": _ALL,
    "policies.of_user": _ALL_AND_OWN,
    **dict.fromkeys(
        (
            "policies.change",
            "policies.remove",
            "webhooks.list_all",
            "webhooks.change",
            "webhooks.remove",
            "webhooks.test",
            "webhooks.deliveries",
            "webhooks.retry",
        ),
        {Role.ADMIN: Scope.ALL},
    ),
    "openapi.document": dict.fromkeys(Role, Scope.ALL),
    "health.healthz": dict.fromkeys(Role, Scope.ALL),
    # Health probes need the status. The details of a failed part are not for unauthenticated clients.
    "health.readyz": {**_ALL_AND_OWN, Role.MONITOR: Scope.ALL, Role.NOBODY: Scope.OWN},
    "metrics.scrape": {**_ALL, Role.MONITOR: Scope.ALL},
}

# Each web page has the rule of the endpoint whose content it shows, or whose act its form does. Programs in
# sessions have no browser: a page shows more than one endpoint, such as a session with its events.
PAGES: Mapping[str, str] = {
    "ui.now": "gpus.list_gpus",
    "ui.sessions": "sessions.list_live",
    "ui.session": "sessions.read",
    "ui.create": "sessions.create",
    "ui.extend": "sessions.extend",
    "ui.end": "sessions.delete",
    "ui.message": "sessions.send_message",
    "ui.cordon": "gpus.cordon",
    "ui.uncordon": "gpus.uncordon",
    "ui.waiting": "queue.show",
    "ui.move": "queue.move",
    "ui.events": "events.list_events",
    "ui.usage": "usage.report",
    "ui.users": "users.list_all",
    "ui.user": "users.show",
    "ui.change_user": "users.change",
    "ui.change_keys": "users.replace",
    "ui.set_policy": "policies.change",
    "ui.remove_policy": "policies.remove",
    "ui.images": "images.list_all",
    "ui.webhooks": "webhooks.list_all",
    "ui.webhook": "webhooks.deliveries",
    "ui.set_webhook": "webhooks.change",
    "ui.remove_webhook": "webhooks.remove",
    "ui.test_webhook": "webhooks.test",
    "ui.retry_delivery": "webhooks.retry",
}
_EVERYBODY = dict.fromkeys(Role, Scope.ALL)


def _without_sessions(rule: Mapping[Role, Scope]) -> Mapping[Role, Scope]:
    return {role: scope for role, scope in rule.items() if role is not Role.SESSION}


RULES: Mapping[str, Mapping[Role, Scope]] = {
    **_RULES_OF_THE_API,
    **{page: _without_sessions(_RULES_OF_THE_API[endpoint]) for page, endpoint in PAGES.items()},
    "ui.health": _ALL_AND_OWN,
    "ui.unknown": _ALL_AND_OWN,
    "ui.start": _EVERYBODY,
    "ui.sign_in": _EVERYBODY,
    "ui.sign_out": _EVERYBODY,
    "ui.language": _EVERYBODY,
    "ui.static": _EVERYBODY,
}


def scope(role: Role, endpoint: str) -> Scope | None:
    """Return the scope of `role` at `endpoint`; None if it has no access."""
    return RULES.get(endpoint, {}).get(role)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: the token's name and role, and for the roles `user` and `session` the user."""

    name: str
    role: Role
    user_id: str | None = None


ANONYMOUS = Caller("anonymous", Role.ADMIN)
NOBODY = Caller("nobody", Role.NOBODY)
