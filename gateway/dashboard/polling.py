"""Answers many browsers that poll the same content from one rendering.

Pages poll every five seconds. A rendering is reused for less than that, so what a poll brings is never older
than what the browser got before.
"""

import functools
import threading
from collections.abc import Callable
from datetime import timedelta

from flask import Flask, Response, current_app, g, request

from gateway.api.authorisation import own_user
from gateway.api.services import services
from gateway.dashboard.rendering import TAG, is_poll, language

_REUSED = timedelta(seconds=4)
_MAX_RENDERINGS = 256  # in the memory of one worker process

_NAME = "gateway.dashboard"  # in `Flask.extensions`

_View = Callable[..., Response]


def polled(view: _View) -> _View:
    """Serve polls of the page from its last rendering for the same role, user and language."""

    @functools.wraps(view)
    def answer(**path: str) -> Response:
        if not is_poll():
            return view(**path)
        renderings: Renderings = current_app.extensions[_NAME]
        key = (request.full_path, g.caller.role, own_user(), language())
        now = services().gpus.clock().uptime
        text, tag = renderings.get(key, now) or renderings.put(key, now, view(**path))
        if request.headers.get(TAG) == tag:
            return Response(status=304)
        return Response(text, headers={TAG: tag}, mimetype="text/html")

    return answer


def install(app: Flask) -> None:
    """Let `app` keep its last renderings."""
    app.extensions[_NAME] = Renderings()


class Renderings:
    """The last renderings of one application's pages, by their keys, with the uptime of each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[tuple[object, ...], tuple[timedelta, bytes, str]] = {}

    def get(self, key: tuple[object, ...], now: timedelta) -> tuple[bytes, str] | None:
        """Return the text and the tag of a rendering that is recent enough."""
        with self._lock:
            since, text, tag = self._kept.get(key, (now - _REUSED, b"", ""))
        return None if now - since >= _REUSED else (text, tag)

    def put(self, key: tuple[object, ...], now: timedelta, response: Response) -> tuple[bytes, str]:
        text, tag = response.get_data(), response.headers[TAG]
        with self._lock:
            if len(self._kept) >= _MAX_RENDERINGS:
                self._kept.clear()
            self._kept[key] = now, text, tag
        return text, tag
