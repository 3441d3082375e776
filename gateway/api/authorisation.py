"""Identifies the caller of each request, and checks the rule of `gateway.domain.permissions` for it.

Denials go to the log and to the audit log. Their number is limited for each caller and for all
unauthenticated clients together, because an attacker can use any number of addresses.
"""

import ipaddress
import logging
from contextlib import suppress

from flask import Flask, g, request

from gateway.api import in_session
from gateway.api.limits import REQUESTS_OF_A_SESSION
from gateway.domain import permissions
from gateway.domain.audit import ANONYMOUS, GATEWAY, actor
from gateway.domain.clock import Clock
from gateway.domain.permissions import Caller, Role, Scope
from gateway.domain.rate import PerMinute
from gateway.errors import Forbidden, GatewayError, TooManyChanges, TooManyFailures, Unauthenticated
from gateway.services.events import AuditLog
from gateway.services.session_callers import SessionCallers
from gateway.services.sign_ins import SignIns
from gateway.services.tokens import Tokens

log = logging.getLogger(__name__)

_PER_CALLER, _UNAUTHENTICATED_TOTAL = 20, 200  # recorded denials a minute
_PROBES = 120  # a minute, of one address, to endpoints that need no token
_CHANGES = 60  # a minute, that a caller of role `user` or `session` may make
_RECORDED_PATH = 200  # characters


PAGES = "ui"  # the blueprint of the web pages, whose callers have a cookie instead of a token
SIGN_IN_COOKIE = "gateway_sign_in"


def register(
    app: Flask,
    tokens: Tokens,
    sign_ins: SignIns,
    session_callers: SessionCallers,
    audit_log: AuditLog,
    clock: Clock,
) -> None:
    denials, changes = Denials(clock, audit_log), PerMinute(clock, _CHANGES)
    requests = PerMinute(clock, REQUESTS_OF_A_SESSION)

    @app.before_request
    def authorise() -> None:
        g.denials, endpoint = denials, request.endpoint or ""
        actor.set(f"{ANONYMOUS}{_peer()}")
        if permissions.scope(Role.NOBODY, endpoint) is Scope.ALL:
            return
        is_page, uid = request.blueprint == PAGES, in_session.uid()
        token = in_session.token()
        if uid is not None:
            caller = session_callers.identify(uid)
        elif token is not None:
            caller = session_callers.identify_token(token)
            _require_few(requests, caller)
        else:
            caller = _identify_browser(tokens, sign_ins) if is_page else _identify(tokens)
        if caller is not None and caller not in (permissions.ANONYMOUS, permissions.NOBODY):
            actor.set(caller.name)
        scope = permissions.scope(caller.role, endpoint) if caller else None
        if caller is None or (caller is permissions.NOBODY and scope is None):
            raise (
                Unauthenticated(given=False)
                if is_page
                else denials.unauthenticated("Authorization" in request.headers)
            )
        if caller is permissions.NOBODY:
            denials.require_few_probes()
        if scope is None and request.endpoint:  # an unknown path is a 404, not a 403
            denials.record(f"role {caller.role}", caller.user_id)
            raise Forbidden(f"The role {caller.role} may not {request.method} {request.path}.")
        if caller.role in (Role.USER, Role.SESSION) and request.method not in ("GET", "HEAD"):
            too_many, wait = changes.note(caller.name)
            if too_many:
                raise TooManyChanges(wait)
        g.caller, g.scope = caller, scope

    @app.teardown_request
    def forget(_error: BaseException | None) -> None:
        actor.set(GATEWAY)  # the thread serves another request next


def _require_few(requests: PerMinute, caller: Caller | None) -> None:
    """Raise `TooManyChanges` if a session asks too often."""
    if caller is not None:
        too_many, wait = requests.note(caller.name)
        if too_many:
            raise TooManyChanges(wait)


def own_user() -> str | None:
    """Return the user whose objects the caller may see; None if the caller may see everyone's."""
    caller: Caller = g.caller
    return (caller.user_id or "") if g.scope is Scope.OWN else None


def require_own(user_id: str) -> None:
    """Raise `Forbidden` if the caller may not act for this user."""
    if own_user() not in (None, user_id):
        g.denials.record(f"acting for {user_id}", own_user())
        raise Forbidden(f"This caller is {own_user()} and may act only for this user.")


def require_operator(field: str) -> None:
    """Raise `Forbidden` if the caller may see only the objects of one user."""
    if own_user() is not None:
        g.denials.record(f"{field} without the role for it", own_user())
        raise Forbidden(f"Only tokens of role admin or operator may send {field!r}.")


def refuse_token(error: Unauthenticated) -> GatewayError:
    """Record that a browser was refused with an invalid token, and return the error that answers it."""
    denials: Denials = g.denials
    return denials.unauthenticated(error.given)


def _identify(tokens: Tokens) -> Caller | None:
    """Return the caller; None if the request has a token that is not valid."""
    if "Authorization" in request.headers:
        scheme, _, secret = request.headers["Authorization"].partition(" ")
        return tokens.identify(secret.strip()) if scheme.lower() == "bearer" else None
    if _is_local(request.remote_addr) and not tokens.any():
        return permissions.ANONYMOUS
    return permissions.NOBODY


def _identify_browser(tokens: Tokens, sign_ins: SignIns) -> Caller:
    """Return who signed in with this browser. A cookie that is not valid any more is no attack."""
    secret = request.cookies.get(SIGN_IN_COOKIE)
    signed_in = sign_ins.identify(secret) if secret else None
    if signed_in is None and _is_local(request.remote_addr) and not tokens.any():
        return permissions.ANONYMOUS
    return signed_in or permissions.NOBODY


class Denials:
    """Records denials, each with its reason and its request, in the log and in the audit log."""

    def __init__(self, clock: Clock, audit_log: AuditLog) -> None:
        self._per_caller = PerMinute(clock, _PER_CALLER)
        self._unauthenticated = PerMinute(clock, _UNAUTHENTICATED_TOTAL)
        self._probes = PerMinute(clock, _PROBES)
        self._audit_log = audit_log

    def require_few_probes(self) -> None:
        """Raise `TooManyFailures` if the address sends too many requests that need no token."""
        excess, wait = self._probes.note(_network())
        if excess:
            raise TooManyFailures(wait)

    def record(self, reason: str, user_id: str | None = None) -> None:
        """Record the denial of a caller who has a valid token."""
        excess, _ = self._per_caller.note(actor.get())
        self._write(excess, reason, user_id)

    def unauthenticated(self, given: bool) -> GatewayError:
        """Record the denial of a request without a valid token, and return the error that answers it.

        `given`: the request had a token, which is not valid."""
        excess, wait = self._per_caller.note(_network())
        if excess <= 1:  # one address cannot use up the total
            total_excess, _ = self._unauthenticated.note("")
            self._write(max(excess, total_excess), "invalid token" if given else "no token")
        return TooManyFailures(wait) if excess else Unauthenticated(given)

    def _write(self, excess: int, reason: str, user_id: str | None = None) -> None:
        """Write nothing from the second denial above the limit on; the first says that more are dropped."""
        if excess > 1:
            return
        path = "".join(each if each.isprintable() else "?" for each in request.path[:_RECORDED_PATH])
        detail = f"{reason}: {request.method} {path}" + (
            "; further denials of this minute are not recorded" if excess else ""
        )
        log.warning("denied", extra={"detail": detail, "user_id": user_id})
        with suppress(GatewayError):  # the log has it, and a full disk must not turn the 401 into a 507
            self._audit_log.deny(detail, user_id)


def _peer() -> str:
    return request.remote_addr or "unix-socket"


def _network() -> str:
    """Return the peer's IPv4 address, or its IPv6 /64, because one client usually controls a whole /64."""
    address = ipaddress.ip_address(request.remote_addr) if request.remote_addr else None
    if isinstance(address, ipaddress.IPv6Address) and not address.ipv4_mapped:
        return str(ipaddress.IPv6Network((address.packed, 64), strict=False))
    return _peer()


def _is_local(address: str | None) -> bool:
    """Whether the peer of the connection is local; None is a unix socket. X-Forwarded-For is ignored."""
    return not address or ipaddress.ip_address(address).is_loopback
