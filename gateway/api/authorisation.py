"""Before each request: who calls, and may they. The rules are the table in `gateway.access`."""

import ipaddress
import logging
from collections.abc import Callable
from datetime import datetime

from flask import Flask, g, request

from gateway import access
from gateway.access import Caller, Reach, Role
from gateway.api.failures import Failures
from gateway.errors import Forbidden, GatewayError, TooManyFailures, Unauthenticated
from gateway.tokens import Tokens

log = logging.getLogger("gateway.api")


def register(app: Flask, tokens: Tokens, clock: Callable[[], datetime]) -> None:
    failures = Failures(clock)

    @app.before_request
    def authorise() -> None:
        endpoint = request.endpoint or ""
        if access.reach(Role.NOBODY, endpoint) is Reach.ALL:
            return
        caller = _identify(tokens)
        reach = access.reach(caller.role, endpoint) if caller else None
        if caller is None or (caller is access.NOBODY and reach is None):
            raise _refusal(failures, endpoint)
        if reach is None and request.endpoint:  # an unknown path is answered 404 to those who may call
            log.warning("denied: %s (%s) at %s", caller.name, caller.role, endpoint)
            raise Forbidden(f"A token of role {caller.role} may not {request.method} {request.path}.")
        g.caller, g.reach = caller, reach


def own_user() -> str | None:
    """The user whose things alone the caller may see; None: everybody's."""
    caller: Caller = g.caller
    return (caller.user_id or "") if g.reach is Reach.OWN else None


def require_own(user_id: str) -> None:
    """Raises `Forbidden` when the caller may not act for this user."""
    if own_user() not in (None, user_id):
        log.warning("denied: %s acting for %s at %s", g.caller.name, user_id, request.endpoint)
        raise Forbidden(f"This token is {own_user()}'s and acts for nobody else.")


def _identify(tokens: Tokens) -> Caller | None:
    """None when what was brought is not valid."""
    if "Authorization" in request.headers:
        scheme, _, secret = request.headers["Authorization"].partition(" ")
        return tokens.identify(secret.strip()) if scheme.lower() == "bearer" else None
    if _is_local(request.remote_addr) and not tokens.any():
        return access.ANONYMOUS
    return access.NOBODY


def _refusal(failures: Failures, endpoint: str) -> GatewayError:
    address = request.remote_addr or "unix socket"
    given = "Authorization" in request.headers
    if wait := failures.note(address):
        return TooManyFailures(wait)
    log.warning("denied: %s token from %s at %s", "invalid" if given else "no", address, endpoint)
    return Unauthenticated(given)


def _is_local(address: str | None) -> bool:
    """The peer of the connection itself (none: a unix socket); what X-Forwarded-For claims is not asked."""
    return not address or ipaddress.ip_address(address).is_loopback
