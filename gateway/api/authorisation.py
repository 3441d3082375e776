"""Before each request: who calls, and may they. The rules are the table in `gateway.domain.permissions`.

Denials are written to the log and to the audit trail, so many a minute for each who is denied and for all
strangers together: addresses cost nothing.
"""

import ipaddress
import logging
from contextlib import suppress

from flask import Flask, g, request

from gateway.api.failures import Failures
from gateway.domain import permissions
from gateway.domain.audit import GATEWAY, actor
from gateway.domain.clock import Clock
from gateway.domain.permissions import Caller, Role, Scope
from gateway.errors import Forbidden, GatewayError, TooManyFailures, Unauthenticated
from gateway.services.events import AuditLog
from gateway.services.tokens import Tokens

log = logging.getLogger(__name__)

_EACH, _ALL_STRANGERS = 20, 200  # denials a minute
_LONGEST_PATH = 200  # characters that are told of it


def register(app: Flask, tokens: Tokens, trail: AuditLog, clock: Clock) -> None:
    denials = Denials(clock, trail)

    @app.before_request
    def authorise() -> None:
        g.denials, endpoint = denials, request.endpoint or ""
        actor.set(f"anonymous@{_peer()}")
        if permissions.scope(Role.NOBODY, endpoint) is Scope.ALL:
            return
        caller = _identify(tokens)
        if caller is not None and caller not in (permissions.ANONYMOUS, permissions.NOBODY):
            actor.set(caller.name)
        reach = permissions.scope(caller.role, endpoint) if caller else None
        if caller is None or (caller is permissions.NOBODY and reach is None):
            raise denials.stranger()
        if reach is None and request.endpoint:  # an unknown path is answered 404 to those who may call
            denials.record(f"role {caller.role}", caller.user_id)
            raise Forbidden(f"A token of role {caller.role} may not {request.method} {request.path}.")
        g.caller, g.scope = caller, reach

    @app.teardown_request
    def forget(_error: BaseException | None) -> None:
        actor.set(GATEWAY)  # threads are used again


def own_user() -> str | None:
    """The user whose things alone the caller may see; None: everybody's."""
    caller: Caller = g.caller
    return (caller.user_id or "") if g.scope is Scope.OWN else None


def require_own(user_id: str) -> None:
    """Raises `Forbidden` when the caller may not act for this user."""
    if own_user() not in (None, user_id):
        g.denials.record(f"acting for {user_id}", own_user())
        raise Forbidden(f"This token is {own_user()}'s and acts for nobody else.")


def _identify(tokens: Tokens) -> Caller | None:
    """None when what was brought is not valid."""
    if "Authorization" in request.headers:
        scheme, _, secret = request.headers["Authorization"].partition(" ")
        return tokens.identify(secret.strip()) if scheme.lower() == "bearer" else None
    if _is_local(request.remote_addr) and not tokens.any():
        return permissions.ANONYMOUS
    return permissions.NOBODY


class Denials:
    """Told in the log and in the audit trail: why, and what was asked."""

    def __init__(self, clock: Clock, trail: AuditLog) -> None:
        self._each = Failures(clock, _EACH)
        self._strangers = Failures(clock, _ALL_STRANGERS)
        self._audit_log = trail

    def record(self, why: str, user_id: str | None = None) -> None:
        """Of somebody with a token."""
        too_many, _ = self._each.note(actor.get())
        self._tell(too_many, why, user_id)

    def stranger(self) -> GatewayError:
        """What somebody without a valid token is answered."""
        given = "Authorization" in request.headers
        too_many, wait = self._each.note(_neighbourhood())
        if too_many <= 1:  # the others take no part of what all may be told of
            too_many_of_all, _ = self._strangers.note("")
            self._tell(max(too_many, too_many_of_all), "invalid token" if given else "no token")
        return TooManyFailures(wait) if too_many else Unauthenticated(given)

    def _tell(self, too_many: int, why: str, user_id: str | None = None) -> None:
        if too_many > 1:
            return
        path = "".join(each if each.isprintable() else "?" for each in request.path[:_LONGEST_PATH])
        detail = f"{why}: {request.method} {path}" + (
            "; more of this minute are not told" if too_many else ""
        )
        log.warning("denied", extra={"detail": detail, "user_id": user_id})
        with suppress(GatewayError):  # the log has it; a full disk must not turn a refusal into a failure
            self._audit_log.deny(detail, user_id)


def _peer() -> str:
    return request.remote_addr or "unix-socket"


def _neighbourhood() -> str:
    """The peer's address; of IPv6 the /64, for whoever has one address of it has them all."""
    address = ipaddress.ip_address(request.remote_addr) if request.remote_addr else None
    if isinstance(address, ipaddress.IPv6Address) and not address.ipv4_mapped:
        return str(ipaddress.IPv6Network((address.packed, 64), strict=False))
    return _peer()


def _is_local(address: str | None) -> bool:
    """The peer of the connection itself (none: a unix socket); what X-Forwarded-For claims is not asked."""
    return not address or ipaddress.ip_address(address).is_loopback
