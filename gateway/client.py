"""A client of the gateway's API, for the command line."""

import json
import os
import socket
from collections.abc import Callable, Mapping
from http.client import HTTPConnection
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib import error, request
from urllib.parse import urlsplit

from gateway.errors import GatewayError, Unavailable

_TIMEOUT_SECONDS = 60
_PAGE = 500  # items
_LATER = (429, 503)


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


class Client:
    """`url` is http://HOST:PORT, https://…, or unix:/PATH for a unix socket."""

    def __init__(self, url: str, token: str | None = None, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        self._given_url = url
        self._timeout = timeout_seconds
        self.token = token
        if url.startswith("unix:"):
            self._url = "http://localhost"
            self._opener = request.build_opener(request.ProxyHandler({}), _UnixHandler(url[len("unix:") :]))
        else:
            self._url = url.rstrip("/")
            proxies = request.ProxyHandler({}) if _is_loopback(self._url) else request.ProxyHandler()
            self._opener = request.build_opener(proxies)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request and return the JSON of the response, None if it is empty.

        Raises `Refused` with the detail of a problem response, `Unavailable` if no gateway answers.
        """
        return self._asked(method, path, body, "application/json", lambda text: json.loads(text or "null"))

    def list(self, path: str, name: str) -> list[dict[str, Any]]:
        """Return the items `name` of a list, from all of its pages. Raises as `ask` does."""
        items: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.ask("GET", f"{path}?limit={_PAGE}{after}")
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
                raise Refused(problem.code, _members(problem)) from problem
        except (OSError, ValueError) as failure:
            reason = getattr(failure, "reason", failure)
            raise Unavailable(
                f"No gateway answers at {self._given_url} ({reason}): start one with `gateway serve`, or set "
                "--url or GATEWAY_URL."
            ) from failure

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
        except (OSError, ValueError) as failure:
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
    cannot be read.
    """
    if token := os.environ.get("GATEWAY_TOKEN", "").strip():
        return token
    try:
        return path.read_text().strip() if path else None
    except (OSError, UnicodeError) as failure:
        raise GatewayError(f"--token-file: {path} cannot be read ({failure}).") from failure


def _members(problem: error.HTTPError) -> Mapping[str, Any]:
    try:
        members: Mapping[str, Any] = json.loads(problem.read())
        members["detail"]
    except (OSError, ValueError, KeyError, TypeError):
        what = f"The server at {problem.url} answered {problem.code} without problem details"
        return {"detail": f"{what}: it is no gateway."}
    return members
