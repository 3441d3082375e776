"""Who may do what: one table of endpoints and roles. What is not in it is denied."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    ADMIN = "admin"
    OPERATOR = "operator"
    USER = "user"
    NOBODY = "nobody"  # a request without a token, where one is needed; no token has this role


class Scope(StrEnum):
    ALL = "all"
    OWN = "own"  # what is one's own, and of the rest nothing that names somebody


_ALL = {Role.ADMIN: Scope.ALL, Role.OPERATOR: Scope.ALL}
_ALL_AND_OWN = {**_ALL, Role.USER: Scope.OWN}

RULES: Mapping[str, Mapping[Role, Scope]] = {
    "sessions.create": _ALL_AND_OWN,
    "sessions.list_live": _ALL_AND_OWN,
    "sessions.read": _ALL_AND_OWN,
    "sessions.delete": _ALL_AND_OWN,
    "sessions.replace_keys": _ALL,
    "users.read": _ALL_AND_OWN,
    "users.replace": _ALL_AND_OWN,
    "gpus.list_gpus": _ALL_AND_OWN,
    "gpus.list_profiles": {**_ALL, Role.USER: Scope.ALL},
    "gpus.fit": _ALL_AND_OWN,
    "gpus.cordon": _ALL,
    "gpus.uncordon": _ALL,
    "events.list_events": _ALL,
    "events.of_session": _ALL_AND_OWN,
    "openapi.document": dict.fromkeys(Role, Scope.ALL),
    "health.healthz": dict.fromkeys(Role, Scope.ALL),
    # Probes need the status; what ails a part may name what strangers need not know.
    "health.readyz": {**_ALL_AND_OWN, Role.NOBODY: Scope.OWN},
}


def scope(role: Role, endpoint: str) -> Scope | None:
    """How far the role gets at the endpoint; None: not at all."""
    return RULES.get(endpoint, {}).get(role)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a token's name, role and, for role `user`, whose it is."""

    name: str
    role: Role
    user_id: str | None = None


ANONYMOUS = Caller("anonymous", Role.ADMIN)
NOBODY = Caller("nobody", Role.NOBODY)
