"""Writes the pipe file of an embedded router from the Pipes of a cluster, and the notices beside it.

While Kubernetes does not answer, the file stays as it is: the routes that it has go on.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from gateway.domain.notice import Notice
from gateway.domain.pipe import Pipe
from gateway.domain.users import USER_ID
from gateway.errors import GatewayError, PipesUnavailable
from gateway.repositories.kubernetes.api import CONFIG_MAPS, PIPES, SECRETS, Api, Object
from gateway.repositories.kubernetes.notices import NOTICES, notice_of, user_of
from gateway.repositories.kubernetes.objects import MANAGED, ROUTES
from gateway.repositories.kubernetes.pipes import pipe_of

log = logging.getLogger(__name__)

_WATCH_SECONDS = 60  # after which everything is read again
_PAUSE_SECONDS = 1.0

Publish = Callable[[Callable[[], Iterable[Pipe]]], None]


class Files(Protocol):
    """The notices beside the pipe file."""

    def update(self, user_id: str, wanted: Callable[[], Notice | None]) -> None: ...
    def all(self) -> dict[str, Notice | None]: ...


class Mirror:
    """`publish` is `Pipes.replace` of the file."""

    def __init__(self, api: Api, namespace: str, publish: Publish, notices: Files) -> None:
        self._api = api
        self._namespace = namespace
        self._publish = publish
        self._notices = notices
        self._pipes: dict[str, Pipe] = {}

    def run(self, stop: threading.Event) -> None:
        """Follow the Pipes and the notices until `stop` is set."""
        follower = threading.Thread(
            target=self._repeat, args=(self.follow_notices, "notices", stop), name="notices", daemon=True
        )
        follower.start()
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
        found, version = self._api.snapshot(PIPES, self._namespace, ROUTES)
        keys = {each["metadata"]["name"]: each for each in self._api.list(SECRETS, self._namespace, MANAGED)}
        self._pipes = {}
        for each in found:
            self._put(each, keys)
        self._write()
        changes = self._api.watch(
            PIPES, self._namespace, labels=ROUTES, after=version, seconds=_WATCH_SECONDS
        )
        for event, changed in changes:
            if event == "DELETED":
                self._pipes.pop(changed["metadata"]["name"], None)
            else:
                self._put(changed, self._key_of(changed))
            self._write()
            if stop.is_set():
                return

    def _put(self, found: Object, keys: dict[str, Object]) -> None:
        """A damaged Pipe is no route; the others go on."""
        name = found["metadata"]["name"]
        self._pipes.pop(name, None)
        try:
            self._pipes[name] = pipe_of(found, keys)
        except PipesUnavailable as error:
            log.warning("a route is left out", extra={"error": str(error)})

    def _key_of(self, found: Object) -> dict[str, Object]:
        with suppress(KeyError):
            name = found["spec"]["to"]["private_key_secret"]["name"]
            secret = self._api.get(SECRETS, name, self._namespace)
            return {name: secret} if secret else {}
        return {}

    def _write(self) -> None:
        self._publish(lambda: list(self._pipes.values()))
