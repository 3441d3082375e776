"""Writes the pipe file of an embedded router from the Pipes of a cluster, and the notices beside it. What the
router reports goes the other way.

While Kubernetes does not answer, the file stays as it is: the routes that it has go on.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol

from gateway.domain.notice import Notice
from gateway.domain.pipe import Pipe
from gateway.domain.users import USER_ID
from gateway.errors import GatewayError, PipesUnavailable
from gateway.repositories.kubernetes.api import CONFIG_MAPS, PIPES, SECRETS, Api, Object
from gateway.repositories.kubernetes.notices import NOTICES, notice_of, user_of
from gateway.repositories.kubernetes.objects import MANAGED, ROUTES
from gateway.repositories.kubernetes.pipes import keys_by_name, pipe_of

log = logging.getLogger(__name__)

_WATCH_SECONDS = 60  # after which everything is read again
_PAUSE_SECONDS = 1.0


class PipeFile(Protocol):
    """The pipe file. `update` and `remove` write one route, which takes a third of the time of `replace` in a
    file of ten thousand."""

    def replace(self, wanted: Callable[[], Iterable[Pipe]]) -> None: ...
    def update(self, wanted: Callable[[], Pipe | None]) -> None: ...
    def remove(self, session_id: str) -> None: ...


class Files(Protocol):
    """The notices beside the pipe file."""

    def update(self, user_id: str, wanted: Callable[[], Notice | None]) -> None: ...
    def all(self) -> dict[str, Notice | None]: ...


class Reports(Protocol):
    """What the router beside the mirror reports to the gateway."""

    def follow(self, stop: threading.Event) -> None: ...


class Mirror:
    def __init__(
        self, api: Api, namespace: str, file: PipeFile, notices: Files, reports: Reports | None = None
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._file = file
        self._notices = notices
        self._reports = reports

    def run(self, stop: threading.Event) -> None:
        """Follow the Pipes, the notices and the router's reports until `stop` is set."""
        others = {"notices": self.follow_notices}
        if self._reports:
            others["reports"] = self._reports.follow
        for what, follow in others.items():
            threading.Thread(target=self._repeat, args=(follow, what, stop), name=what, daemon=True).start()
        self._repeat(self.follow, "routes", stop)

    def _repeat(self, follow: Callable[[threading.Event], None], what: str, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                follow(stop)
            except GatewayError as error:
                log.warning("some objects are not mirrored now", extra={"what": what, "error": str(error)})
                stop.wait(_PAUSE_SECONDS)

    def follow_notices(self, stop: threading.Event) -> None:
        """Read all notices, and then their changes until the watch ends."""
        found, version = self._api.snapshot(CONFIG_MAPS, self._namespace, NOTICES)
        wanted = {user_of(each): notice_of(each) for each in found}
        existing = self._notices.all()
        for user_id in wanted.keys() | existing.keys():
            if user_id not in existing or existing[user_id] != wanted.get(user_id):
                self._put_notice(user_id, wanted.get(user_id))
        changes = self._api.watch(
            CONFIG_MAPS, self._namespace, labels=NOTICES, after=version, seconds=_WATCH_SECONDS
        )
        for event, changed in changes:
            self._put_notice(user_of(changed), None if event == "DELETED" else notice_of(changed))
            if stop.is_set():
                return

    def _put_notice(self, user_id: str, notice: Notice | None) -> None:
        if USER_ID.fullmatch(user_id):
            self._notices.update(user_id, lambda: notice)

    def follow(self, stop: threading.Event) -> None:
        """Read all Pipes, and then their changes until the watch ends."""
        published, version = self._read()
        self._file.replace(published.values)
        changes = self._api.watch(
            PIPES, self._namespace, labels=ROUTES, after=version, seconds=_WATCH_SECONDS
        )
        for event, changed in changes:
            name = changed["metadata"]["name"]
            before = published.pop(name, None)
            found = None if event == "DELETED" else _route(changed, self._key_of(changed))
            if found:
                published[name] = found
                self._file.update(partial(published.get, name))
            elif before:
                self._file.remove(before.session_id)
            if stop.is_set():
                return

    def _read(self) -> tuple[dict[str, Pipe], str]:
        """Return the routes by the names of their Pipes, and the version at which they were read."""
        found, version = self._api.snapshot(PIPES, self._namespace, ROUTES)
        keys = keys_by_name(self._api.list(SECRETS, self._namespace, MANAGED))
        routes = {each["metadata"]["name"]: _route(each, keys) for each in found}
        return {name: route for name, route in routes.items() if route}, version

    def _key_of(self, found: Object) -> dict[str, Object]:
        with suppress(KeyError):
            name = found["spec"]["to"]["private_key_secret"]["name"]
            secret = self._api.get(SECRETS, name, self._namespace)
            return {name: secret} if secret else {}
        return {}


def _route(found: Object, keys: dict[str, Object]) -> Pipe | None:
    """A damaged Pipe is no route; the others go on."""
    try:
        return pipe_of(found, keys)
    except PipesUnavailable as error:
        log.warning("a route is left out", extra={"error": str(error)})
        return None
