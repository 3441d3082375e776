"""Before each request: who calls, and may they. The rules are the table in `gateway.access`.

Denials are written to the log and to the audit trail, so many a minute for each who is denied.
"""

import ipaddress
import logging
from contextlib import suppress

from flask import Flask, g, request

from gateway import access
from gateway.access import Caller, Reach, Role
from gateway.api.failures import Failures
from gateway.audit import GATEWAY, actor
from gateway.clock import Clock
from gateway.errors import Forbidden, GatewayError, TooManyFailures, Unauthenticated
from gateway.tokens import Tokens
from gateway.trail import Trail

log = logging.getLogger("gateway.api")


def register(app: Flask, tokens: Tokens, trail: Trail, clock: Clock) -> None:
    denials = Denials(Failures(clock), trail)

    @app.before_request
    def authorise() -> None:
        g.denials, endpoint = denials, request.endpoint or ""
        actor.set(f"anonymous@{_peer()}")
        if access.reach(Role.NOBODY, endpoint) is Reach.ALL:
            return
        caller = _identify(tokens)
        if caller is not None and caller not in (access.ANONYMOUS, access.NOBODY):
            actor.set(caller.name)
        reach = access.reach(caller.role, endpoint) if caller else None
        if caller is None or (caller is access.NOBODY and reach is None):
            raise denials.stranger(endpoint)
        if reach is None and request.endpoint:  # an unknown path is answered 404 to those who may call
            denials.tell(f"role {caller.role} at {endpoint}", caller.user_id)
            raise Forbidden(f"A token of role {caller.role} may not {request.method} {request.path}.")
        g.caller, g.reach = caller, reach

    @app.teardown_request
    def forget(_error: BaseException | None) -> None:
        actor.set(GATEWAY)  # threads are used again


def own_user() -> str | None:
    """The user whose things alone the caller may see; None: everybody's."""
    caller: Caller = g.caller
    return (caller.user_id or "") if g.reach is Reach.OWN else None


def require_own(user_id: str) -> None:
    """Raises `Forbidden` when the caller may not act for this user."""
    if own_user() not in (None, user_id):
        g.denials.tell(f"acting for {user_id} at {request.endpoint}", own_user())
        raise Forbidden(f"This token is {own_user()}'s and acts for nobody else.")


def _identify(tokens: Tokens) -> Caller | None:
    """None when what was brought is not valid."""
    if "Authorization" in request.headers:
        scheme, _, secret = request.headers["Authorization"].partition(" ")
        return tokens.identify(secret.strip()) if scheme.lower() == "bearer" else None
    if _is_local(request.remote_addr) and not tokens.any():
        return access.ANONYMOUS
    return access.NOBODY


class Denials:
    """Told in the log and in the audit trail, bounded for each who is denied."""

    def __init__(self, failures: Failures, trail: Trail) -> None:
        self._failures = failures
        self._trail = trail

    def tell(self, detail: str, user_id: str | None = None) -> int:
        """The seconds after which whoever acts would be told of again; 0 when this was told."""
        if wait := self._failures.note(actor.get()):
            return wait
        log.warning("denied", extra={"detail": detail, "user_id": user_id})
        with suppress(GatewayError):  # the log has it; a full disk must not turn a refusal into a failure
            self._trail.deny(detail, user_id)
        return 0

    def stranger(self, endpoint: str) -> GatewayError:
        """What somebody without a valid token is answered."""
        given = "Authorization" in request.headers
        wait = self.tell(f"{'invalid' if given else 'no'} token at {endpoint or 'an unknown path'}")
        return TooManyFailures(wait) if wait else Unauthenticated(given)


def _peer() -> str:
    return request.remote_addr or "unix-socket"


def _is_local(address: str | None) -> bool:
    """The peer of the connection itself (none: a unix socket); what X-Forwarded-For claims is not asked."""
    return not address or ipaddress.ip_address(address).is_loopback
