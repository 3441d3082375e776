"""Request bodies whose faults are the client's and not the gateway's."""

from collections.abc import Callable, Iterable
from typing import Any

from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Body:
    """Reads what gunicorn reads. Of a body that is too large, the gate passes on only the first part."""

    def __init__(self, source: Any, is_too_large: bool) -> None:
        self._source = source
        self._is_too_large = is_too_large

    def read(self, size: int = -1) -> bytes:
        if self._is_too_large:
            raise RequestEntityTooLarge
        try:
            data: bytes = self._source.read(None if size < 0 else size)
        except (ParseException, OSError):
            raise BadRequest("The body is not divided into chunks as HTTP prescribes.") from None
        return data


def with_checked_bodies(application: Wsgi) -> Wsgi:
    """Return `application`, for which a body that cannot be read is an HTTP error."""

    def call(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        is_too_large = environ["gunicorn.socket"].is_too_large
        environ["wsgi.input"] = _Body(environ["wsgi.input"], is_too_large)
        return application(environ, start_response)

    return call
