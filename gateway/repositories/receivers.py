"""Sends events to webhooks over HTTP. A receiver that is slow, large or hostile does no harm.

There are no redirects and no proxies. The gateway resolves the name itself and connects only to addresses
that are allowed, so a name that changes between the check and the connection leads nowhere else.
"""

import http.client
import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit

from standardwebhooks.webhooks import Webhook as Signer

from gateway.domain.records import Webhook
from gateway.errors import DeliveryFailed, InvalidRequest

SECONDS = 15.0  # for the whole exchange
_LONGEST_URL, _LARGEST_RESPONSE = 2000, 64 * 1024

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOCAL = tuple(  # networks that Python calls global: IPv4-compatible, NAT64 of a site, site-local
    ipaddress.IPv6Network(network) for network in ("::/96", "64:ff9b:1::/48", "fec0::/10")
)


@dataclass(frozen=True)
class HttpReceivers:
    """`private_networks` are allowed although they are not public. `seconds` bounds the whole exchange."""

    private_networks: Sequence[IpNetwork] = ()
    seconds: float = SECONDS

    def require_allowed(self, url: str) -> None:
        """Raise `InvalidRequest` unless the URL is https, or http to an allowed loopback address."""
        problem = self._problem_with(url)
        if problem:
            raise InvalidRequest(problem, {"url": [problem]})

    def post(self, webhook: Webhook, message_id: str, body: Mapping[str, Any], now: datetime) -> int:
        """Sign and send the body, and return the status of the response. Raises `DeliveryFailed`."""
        text = json.dumps(body, separators=(",", ":"))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "gpu-ssh-gateway",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Signer(webhook.secret).sign(message_id, now, text),
        }
        problem = self._problem_with(webhook.url)
        if problem:
            raise DeliveryFailed(problem)
        try:
            return self._exchange(urlsplit(webhook.url), text.encode(), headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise DeliveryFailed(str(error) or type(error).__name__) from error

    def _exchange(self, url: SplitResult, body: bytes, headers: Mapping[str, str]) -> int:
        connection = self._connection(url)
        with _deadline(connection, self.seconds):
            try:
                path = (url.path or "/") + (f"?{url.query}" if url.query else "")
                connection.request("POST", path, body, dict(headers))
                response = connection.getresponse()
                response.read(_LARGEST_RESPONSE)
                return response.status
            finally:
                connection.close()

    def _connection(self, url: SplitResult) -> http.client.HTTPConnection:
        host, timeout = url.hostname or "", self.seconds
        if url.scheme == "https":
            context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, url.port, timeout=timeout, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, url.port, timeout=timeout)
        connection._create_connection = self._connect  # type: ignore[attr-defined]
        return connection

    def _connect(self, address: tuple[str, int], *_: object) -> socket.socket:
        """As `socket.create_connection`, but only to an address that is allowed."""
        host, port = address
        found = {info[4][0]: None for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        allowed = [each for each in found if self._allows(ipaddress.ip_address(str(each).partition("%")[0]))]
        failure = OSError(_not_allowed(host))
        for each in allowed:
            try:
                return socket.create_connection((str(each), port), timeout=self.seconds)
            except OSError as error:
                failure = error
        raise failure

    def _problem_with(self, url: str) -> str | None:
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname or "", parts.port
        except ValueError:
            host, parts = "", urlsplit("")
        if not host or len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
            return "This is not the URL of a receiver: use one such as https://hooks.example.org/gpu."
        if parts.username is not None or parts.fragment:
            return "Leave user, password and fragment out of the URL: a secret belongs into its path."
        address = _literal(host)
        if address is not None and not self._allows(address):
            return _not_allowed(host)
        is_loopback = host == "localhost" or address is not None and address.is_loopback
        if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback):
            return "A receiver's URL begins with https://; only one on loopback may begin with http://."
        return None

    def _allows(self, address: IpAddress) -> bool:
        real = _real(address)
        if any(real.version == network.version and real in network for network in self.private_networks):
            return True
        is_local = isinstance(real, ipaddress.IPv6Address) and any(real in network for network in _LOCAL)
        return real.is_global and not real.is_multicast and not is_local


def _not_allowed(host: str) -> str:
    return (
        f"{host} is not a public address: allow its network with --webhook-networks "
        "(GATEWAY_WEBHOOK_NETWORKS), or use another receiver."
    )


def _literal(host: str) -> IpAddress | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _real(address: IpAddress) -> IpAddress:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


@contextmanager
def _deadline(connection: http.client.HTTPConnection, seconds: float) -> Iterator[None]:
    """Shut the connection down after so many seconds, also if the receiver sends a byte now and then."""

    is_over = threading.Event()

    def shut_down() -> None:
        is_over.set()
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if is_over.is_set():  # what was read until then can look like a whole response
            raise TimeoutError(f"the receiver did not answer within {seconds:g} s")
