"""The path that a reverse proxy puts before the API's own, such as /gpu of https://gw.example.org/gpu."""

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


def install(app: Flask, prefix: str) -> None:
    """Let all links of `app` begin with `prefix`. Call it when all routes are registered.

    Most proxies remove the prefix. Who calls the gateway directly follows the same links, so it is removed
    here, too, unless paths of the gateway itself begin with it.
    """
    own = {rule.rule.split("/")[1] for rule in app.url_map.iter_rules()}
    is_removed = prefix.split("/")[1] not in own
    app.wsgi_app = _under(prefix, is_removed, app.wsgi_app)  # type: ignore[method-assign, assignment]


def _under(prefix: str, is_removed: bool, application: Wsgi) -> Wsgi:
    def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if is_removed and (path == prefix or path.startswith(f"{prefix}/")):
            environ["PATH_INFO"] = path[len(prefix) :]
        environ["SCRIPT_NAME"] = prefix
        return application(environ, start_response)

    return call
