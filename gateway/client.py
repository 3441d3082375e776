"""The gateway's API, asked from the command line."""

import json
import os
from pathlib import Path
from typing import Any
from urllib import error, request

from gateway.errors import GatewayError, Unavailable

_TIMEOUT_SECONDS = 60


class Client:
    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self.token = token
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON, None where it has none. Raises `Unavailable`, and `GatewayError` with what
        the gateway says is wrong."""
        data = None if body is None else json.dumps(body).encode()
        try:
            asked = request.Request(self._url + path, data, self._headers, method=method)
            with request.urlopen(asked, timeout=_TIMEOUT_SECONDS) as answer:
                return json.loads(answer.read() or b"null")
        except error.HTTPError as refusal:
            with refusal:
                raise GatewayError(_detail(refusal)) from refusal
        except (OSError, ValueError) as failure:
            why = getattr(failure, "reason", failure)
            raise Unavailable(
                f"No gateway answers at {self._url} ({why}); start one with `gateway serve`, or name "
                "another by --url or GATEWAY_URL."
            ) from failure

    def status(self, method: str, path: str, body: object = None, token: str | None = None) -> int:
        """How a request with `token`, or with none, is answered; this client's own is not sent."""
        headers = {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            asked = request.Request(self._url + path, data, headers, method=method)
            with request.urlopen(asked, timeout=_TIMEOUT_SECONDS) as answer:
                return int(answer.status)
        except error.HTTPError as refusal:
            with refusal:
                return refusal.code
        except (OSError, ValueError) as failure:
            raise Unavailable(f"No gateway answers at {self._url} ({failure}).") from failure


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
