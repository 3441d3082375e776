"""The gateway's API, asked from the command line."""

import json
from typing import Any
from urllib import error, request

from gateway.errors import GatewayError, Unavailable

_TIMEOUT_SECONDS = 60


class Client:
    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON, None where it has none. Raises `Unavailable`, and `GatewayError` with what
        the gateway says is wrong."""
        data = None if body is None else json.dumps(body).encode()
        try:
            asked = request.Request(
                self._url + path, data, {"Content-Type": "application/json"}, method=method
            )
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


def _detail(refusal: error.HTTPError) -> str:
    try:
        return str(json.loads(refusal.read())["detail"])
    except (ValueError, KeyError, TypeError):
        return f"The server at {refusal.url} answered {refusal.code} and is no gateway."
