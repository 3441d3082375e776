"""A client of the gateway's API, for the command line."""

import json
import os
import socket
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException, IncompleteRead
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib import error, request
from urllib.parse import urlsplit

from gateway.errors import GatewayError, Unavailable

_TIMEOUT_SECONDS = 60
_PAGE = 500  # items
_LATER = (429, 503)
_MOVED = (301, 302, 303, 307, 308)
_OF_PROXIES = (502, 503, 504)  # without problem details: the gateway behind the proxy does not answer


class Refused(GatewayError):
    """The gateway answered with a problem. `problem` are the members of the response."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem["detail"]))
        self.status = status
        self.problem = problem

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _LATER


class _NoRedirects(request.HTTPRedirectHandler):
    """A redirect would send the token to another server, and turn a POST into a GET."""

    def redirect_request(self, *_: Any) -> None:
        """Let the response be an error."""


class Client:
    """`url` is http://HOST:PORT, https://…, or unix:/PATH for a unix socket. Raises `GatewayError` if it is
    none of them."""

    def __init__(self, url: str, token: str | None = None, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        _require_address(url)
        self._given_url = url
        self._timeout = timeout_seconds
        self.token = token
        if url.startswith("unix:"):
            self._url = "http://localhost"
            self._opener = request.build_opener(request.ProxyHandler({}), _UnixHandler(url[len("unix:") :]))
        else:
            self._url = url.rstrip("/")
            proxies = request.ProxyHandler({}) if _is_loopback(self._url) else request.ProxyHandler()
            self._opener = request.build_opener(proxies, _NoRedirects)

    def at(self, url: str | None, token: str | None) -> "Client":
        """Return a client with this token of the gateway at `url`, or of the same one."""
        return Client(url or self._given_url, token, self._timeout)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request and return the JSON of the response, None if it is empty.

        Raises `Refused` with the detail of a problem response, `Unavailable` if no gateway answers, and
        `GatewayError` if something else answers.
        """
        return self._asked(method, path, body, "application/json", _answer)

    def list(self, path: str, name: str) -> list[dict[str, Any]]:
        """Return the items `name` of a list, from all of its pages. Raises as `ask` does."""
        items: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.ask("GET", f"{path}?limit={_PAGE}{after}")
            if page is None or name not in page:
                raise self._no_gateway(f"its answer has no {name}")
            items += page[name]
            if page.get("next") is None:
                return items
            after = f"&after={page['next']}"

    def _asked(self, method: str, path: str, body: object, accept: str, parse: Callable[[str], Any]) -> Any:
        try:
            with self._open(method, path, body, self.token or None, accept) as response:
                return parse(response.read().decode())
        except error.HTTPError as problem:
            with problem:
                raise self._refusal(problem, path) from problem
        except (OSError, IncompleteRead) as failure:
            reason = getattr(failure, "reason", failure)
            raise Unavailable(
                f"No gateway answers at {self._given_url} ({reason}): start one with `gateway serve`, or set "
                "--url or GATEWAY_URL."
            ) from failure
        except (HTTPException, ValueError) as failure:
            raise self._no_gateway("its answer is not that of a gateway") from failure

    def _refusal(self, response: error.HTTPError, path: str) -> GatewayError:
        """What an error response means. Only a gateway sends problem details."""
        try:
            members: Mapping[str, Any] = json.loads(response.read())
            if isinstance(members["detail"], str):
                return Refused(response.code, members)
        except (OSError, HTTPException, ValueError, KeyError, TypeError):
            pass
        if response.code in _MOVED:
            there = ascii(response.headers.get("Location", "").removesuffix(path))[1:-1]
            return GatewayError(
                f"{self._given_url} sends its clients to {there or 'another address'}: set --url or "
                "GATEWAY_URL to the address of the gateway itself."
            )
        if response.code in _OF_PROXIES:
            return Unavailable(
                f"The server at {self._given_url} answers {response.code}: the gateway behind it does not "
                "answer, or it is no gateway."
            )
        return self._no_gateway(f"it answers {response.code} without problem details")

    def _no_gateway(self, why: str) -> GatewayError:
        return GatewayError(
            f"The server at {self._given_url} is no gateway, because {why}: set --url or GATEWAY_URL."
        )

    def text(self, path: str, media_type: str) -> str:
        """Get a text of this media type. Raises as `ask` does."""
        return str(self._asked("GET", path, None, media_type, str))

    def status(self, method: str, path: str, body: object = None, token: str | None = None) -> int:
        """Send a request with `token` instead of the client's own, and return the status of the response.

        With None the request has no token. Raises `Unavailable` if no gateway answers.
        """
        try:
            with self._open(method, path, body, token) as response:
                return int(response.status)
        except error.HTTPError as problem:
            with problem:
                return problem.code
        except (OSError, HTTPException, ValueError) as failure:
            raise Unavailable(f"No gateway answers at {self._given_url} ({failure}).") from failure

    def _open(
        self, method: str, path: str, body: object, token: str | None, accept: str = "application/json"
    ) -> Any:
        headers = {"Content-Type": "application/json", "Accept": accept}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        outgoing = request.Request(self._url + path, data, headers, method=method)
        return self._opener.open(outgoing, timeout=self._timeout)


def _answer(text: str) -> dict[str, Any] | None:
    """The JSON of a response. Raises `ValueError` for what no gateway answers."""
    answer = json.loads(text or "null")
    if not isinstance(answer, dict | None):
        raise ValueError(text)
    return answer


def _require_address(url: str) -> None:
    """Raise `GatewayError` unless a gateway can have this address."""
    try:
        parts = urlsplit(url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
        is_valid = parts.scheme == "unix" and bool(parts.path) or is_http and parts.port != 0
        is_valid = is_valid and not (parts.query or parts.fragment)
    except ValueError:
        is_valid = False
    if not is_valid or not url.isprintable() or " " in url and not url.startswith("unix:"):
        raise GatewayError(
            f"--url (GATEWAY_URL): {url!r} is not the address of a gateway: use one such as "
            "http://localhost:8080, https://gw.example.org or unix:/run/gateway.sock."
        )


def _is_loopback(url: str) -> bool:
    """A proxy has another loopback, and must not see the token."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class _UnixHandler(request.HTTPHandler):
    """Sends every request over one unix socket, whatever host its URL names."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def http_open(self, outgoing: request.Request) -> Any:
        return self.do_open(self._connection, outgoing)

    def _connection(self, host: str, **options: Any) -> HTTPConnection:
        return _UnixConnection(self._path, host, **options)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str, host: str, **options: Any) -> None:
        super().__init__(host, **options)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def read_token(path: Path | None) -> str | None:
    """Return the token in GATEWAY_TOKEN, else the one in the file at `path`, else None.

    There is no flag for the token itself, because `ps` shows arguments. Raises `GatewayError` if the file
    cannot be read, and if what is there cannot be a token.
    """
    source, token = "GATEWAY_TOKEN", os.environ.get("GATEWAY_TOKEN", "").strip()
    if not token and path:
        source = f"--token-file: {path}"
        try:
            token = path.read_text().strip()
        except (OSError, UnicodeError) as failure:
            raise GatewayError(f"{source} cannot be read ({failure}).") from failure
    if not token.isascii() or not token.isprintable() or " " in token:
        raise GatewayError(f"{source} is not a token: it is one word of ASCII characters, such as gsg_….")
    return token or None
