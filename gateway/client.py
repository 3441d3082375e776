"""The gateway's API, asked from the command line."""

import json
import os
import socket
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib import error, request

from gateway.errors import GatewayError, Unavailable

_TIMEOUT_SECONDS = 60


class Client:
    """`url` is http://HOST:PORT, https://…, or unix:/PATH of a socket."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._named = url
        self.token = token
        if url.startswith("unix:"):
            self._url = "http://localhost"
            self._opener = request.build_opener(request.ProxyHandler({}), _UnixHandler(url[len("unix:") :]))
        else:
            self._url = url.rstrip("/")
            self._opener = request.build_opener()

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON, None where it has none. Raises `Unavailable`, and `GatewayError` with what
        the gateway says is wrong."""
        try:
            with self._open(method, path, body, self.token or None) as answer:
                return json.loads(answer.read() or b"null")
        except error.HTTPError as refusal:
            with refusal:
                raise GatewayError(_detail(refusal)) from refusal
        except (OSError, ValueError) as failure:
            why = getattr(failure, "reason", failure)
            raise Unavailable(
                f"No gateway answers at {self._named} ({why}); start one with `gateway serve`, or name "
                "another by --url or GATEWAY_URL."
            ) from failure

    def status(self, method: str, path: str, body: object = None, token: str | None = None) -> int:
        """How a request with `token`, or with none, is answered; this client's own is not sent."""
        try:
            with self._open(method, path, body, token) as answer:
                return int(answer.status)
        except error.HTTPError as refusal:
            with refusal:
                return refusal.code
        except (OSError, ValueError) as failure:
            raise Unavailable(f"No gateway answers at {self._named} ({failure}).") from failure

    def _open(self, method: str, path: str, body: object, token: str | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        asked = request.Request(self._url + path, data, headers, method=method)
        return self._opener.open(asked, timeout=_TIMEOUT_SECONDS)


class _UnixHandler(request.HTTPHandler):
    """Opens what is asked of any host over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def http_open(self, asked: request.Request) -> Any:
        return self.do_open(self._connection, asked)

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
    """The token in GATEWAY_TOKEN, else the one in the file. Never an argument: `ps` shows those."""
    if token := os.environ.get("GATEWAY_TOKEN", "").strip():
        return token
    try:
        return path.read_text().strip() if path else None
    except (OSError, UnicodeError) as failure:
        raise GatewayError(f"--token-file: {path} cannot be read ({failure}).") from failure


def _detail(refusal: error.HTTPError) -> str:
    try:
        return str(json.loads(refusal.read())["detail"])
    except (ValueError, KeyError, TypeError):
        return f"The server at {refusal.url} answered {refusal.code} and is no gateway."
