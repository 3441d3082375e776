"""Keeps web pages away from the API.

A page that an administrator visits can make the browser send requests to the gateway. DNS rebinding gives
the page's own host name the gateway's address, so the browser lets the page read the answers too. Two checks
stop both: the `Host` must be one of the gateway's names, and the browser's headers must name no foreign page.
"""

import logging
from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from flask import Flask, Response, request

from gateway.domain.clock import Clock
from gateway.domain.rate import PerMinute
from gateway.errors import ForeignOrigin, UntrustedHost

log = logging.getLogger(__name__)

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_REFUSALS_LOGGED = 20  # a minute and client


def register(app: Flask, trusted_hosts: Collection[str], public_host: str, clock: Clock) -> None:
    """`trusted_hosts` are names and addresses without a port; `.example.org` stands for all its subdomains.
    Loopback names and the address that a connection arrived at are always trusted. `public_host` is that of
    --public-url with its port, which a proxy may leave out of `Host`; empty without one."""
    trusted = [*LOOPBACK, *(name.lower() for name in trusted_hosts)]
    refusals = PerMinute(clock, _REFUSALS_LOGGED)

    @app.before_request
    def refuse_pages() -> None:
        host = request.headers.get("Host", "")
        if host and not _is_trusted(host, trusted):
            _log(refusals, f"Host {host!r}")
            raise UntrustedHost(host)
        if request.method not in _SAFE and (origin := _foreign_origin(host, public_host)):
            _log(refusals, f"Origin {origin!r}")
            raise ForeignOrigin(origin)

    @app.after_request
    def forbid_storing(response: Response) -> Response:
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _is_trusted(host: str, trusted: Collection[str]) -> bool:
    name = _without_port(host)
    if name is None:
        return False
    return name in trusted or name == _arrived_at() or name.endswith(tuple(_domains(trusted)))


def _domains(trusted: Collection[str]) -> Iterator[str]:
    return (name for name in trusted if name.startswith("."))


def _without_port(host: str) -> str | None:
    """The name or address in lower case, an IPv6 address without brackets; None when it is no host at all."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname if parts.port is None or parts.port > 0 else None
    except ValueError:
        return None


def _arrived_at() -> str | None:
    """The gateway's own address of this connection. A page cannot make a browser send an address as `Host`
    for a name that it controls."""
    connection = request.environ.get("gunicorn.socket")
    name = connection.getsockname() if connection is not None else None
    return str(name[0]) if isinstance(name, tuple) else None


def _foreign_origin(host: str, public_host: str) -> str | None:
    """The page that a browser says the request comes from, unless it is the gateway's own."""
    origin = request.headers.get("Origin")
    own = (host.lower(), public_host.lower() or host.lower())
    if origin is not None and urlsplit(origin).netloc.lower() not in own:
        return origin
    site = request.headers.get("Sec-Fetch-Site", "none")
    return f"a {site} page" if site not in ("none", "same-origin") else None


def _log(refusals: PerMinute, why: str) -> None:
    too_many, _ = refusals.note(request.remote_addr or "unix-socket")
    if not too_many:
        log.warning(
            "a request of a web page is refused", extra={"why": why[:200], "path": request.path[:200]}
        )
