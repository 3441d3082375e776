"""Where sessions reach a Service of the cluster."""

import time
from collections.abc import Callable

from gateway.repositories.kubernetes import facts
from gateway.repositories.kubernetes.api import SERVICES, Api

_FRESH_SECONDS = 60.0  # a Service keeps its address until somebody removes it


class ServiceUrl:
    """`name` is `NAMESPACE/NAME`; empty if sessions reach no such Service."""

    def __init__(self, api: Api, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self.name = name
        self._now = now
        self._last: tuple[float, str] | None = None

    def url(self) -> str | None:
        """Return the URL as it was at most a minute ago; None if the Service does not exist."""
        if self._last and self._now() - self._last[0] < _FRESH_SECONDS:
            return self._last[1]
        namespace, _, name = self.name.partition("/")
        url = facts.url_of(self._api.get(SERVICES, name, namespace)) if self.name else None
        self._last = (self._now(), url) if url else None
        return url
