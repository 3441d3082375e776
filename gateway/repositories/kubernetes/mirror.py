"""Writes the pipe file of an embedded router from the Pipes of a cluster.

While Kubernetes does not answer, the file stays as it is: the routes that it has go on.
"""

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from gateway.domain.pipe import Pipe
from gateway.errors import GatewayError, PipesUnavailable
from gateway.repositories.kubernetes.api import PIPES, SECRETS, Api, Object
from gateway.repositories.kubernetes.objects import MANAGED
from gateway.repositories.kubernetes.pipes import pipe_of

log = logging.getLogger(__name__)

_WATCH_SECONDS = 60  # after which everything is read again
_PAUSE_SECONDS = 1.0

Publish = Callable[[Callable[[], Iterable[Pipe]]], None]


class Mirror:
    """`publish` is `Pipes.replace` of the file."""

    def __init__(self, api: Api, namespace: str, publish: Publish) -> None:
        self._api = api
        self._namespace = namespace
        self._publish = publish
        self._pipes: dict[str, Pipe] = {}

    def run(self, stop: threading.Event) -> None:
        """Follow the Pipes until `stop` is set."""
        while not stop.is_set():
            try:
                self.follow(stop)
            except GatewayError as error:
                log.warning("the routes are not mirrored now", extra={"error": str(error)})
                stop.wait(_PAUSE_SECONDS)

    def follow(self, stop: threading.Event) -> None:
        """Read all Pipes, and then their changes until the watch ends."""
        found, version = self._api.snapshot(PIPES, self._namespace, MANAGED)
        keys = {each["metadata"]["name"]: each for each in self._api.list(SECRETS, self._namespace, MANAGED)}
        self._pipes = {}
        for each in found:
            self._put(each, keys)
        self._write()
        changes = self._api.watch(
            PIPES, self._namespace, labels=MANAGED, after=version, seconds=_WATCH_SECONDS
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
