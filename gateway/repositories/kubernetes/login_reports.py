"""Reports of SSH logins as ConfigMaps: a router's pod makes them, and the leading gateway removes them.

So a router needs no database and no secret for them, only the right to create ConfigMaps.
"""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from gateway.domain.ssh_logins import Datagram
from gateway.errors import GatewayError
from gateway.repositories.kubernetes.api import CONFIG_MAPS, AlreadyExists, Api, Object
from gateway.repositories.kubernetes.objects import CONTENT, MANAGED

log = logging.getLogger(__name__)

REPORTS = {**MANAGED, CONTENT: "logins"}
_TEXT = "reports"
_UNFIT = re.compile(r"[^a-z0-9-]")  # for the name of an object
_MOST_OBJECTS = 20  # of one router; more reports stay with the router, which drops the oldest ones
_MOST_REPORTS = 500  # in one object
_POLL_SECONDS, _GATHER_SECONDS, _RETRY_SECONDS = 1.0, 0.2, 1.0

Receive = Callable[[float], Datagram | None]


class Listener(Protocol):
    """The socket to which the router beside the mirror reports."""

    def listening(self) -> AbstractContextManager[Receive]: ...


class ReportSender:
    """Makes ConfigMaps of the reports of the router in the same pod. `host` is the host name of the pod."""

    def __init__(self, api: Api, namespace: str, host: str, socket: Listener) -> None:
        self._api = api
        self._namespace = namespace
        self._prefix = f"logins-{_UNFIT.sub('-', host.lower())}"
        self._socket = socket
        self._failure = ""

    def follow(self, stop: threading.Event) -> None:
        """Send reports until `stop` is set. While Kubernetes takes none, the router keeps them."""
        with self._socket.listening() as receive:
            while not stop.is_set():
                datagram = _gathered(receive)
                while datagram and not self.send(datagram) and not stop.wait(_RETRY_SECONDS):
                    pass

    def send(self, datagram: Datagram) -> bool:
        """Send the reports, and return whether Kubernetes took them. The first free one of a few names is
        used: objects that nobody takes must not fill the cluster."""
        try:
            for number in range(_MOST_OBJECTS):
                try:
                    self._api.create(report_object(self._namespace, f"{self._prefix}-{number}", datagram))
                except AlreadyExists:
                    continue
                self._failure = ""
                return True
            failure = f"The gateway has not taken the last {_MOST_OBJECTS} reports."
        except GatewayError as error:
            failure = str(error)
        if failure != self._failure:
            log.warning("SSH logins are reported later", extra={"error": failure})
        self._failure = failure
        return False


def report_object(namespace: str, name: str, datagram: Datagram) -> Object:
    return {
        "apiVersion": CONFIG_MAPS.api_version,
        "kind": CONFIG_MAPS.name,
        "metadata": {"name": name, "namespace": namespace, "labels": dict(REPORTS)},
        "data": {_TEXT: datagram.encode().decode()},
    }


def _gathered(receive: Receive) -> Datagram | None:
    """Return what the router reports at about the same time as one datagram; None without reports."""
    first = receive(_POLL_SECONDS)
    if first is None:
        return None
    reports, lost = list(first.reports), first.lost
    while len(reports) < _MOST_REPORTS and (more := receive(_GATHER_SECONDS)):
        reports, lost = [*reports, *more.reports], lost + more.lost
    return Datagram(reports, lost)


class ClusterReports:
    """The reports of all routers of the cluster, as the port `RouterReports`."""

    def __init__(self, api: Api, namespace: str, pause: Callable[[float], None] = time.sleep) -> None:
        self._api = api
        self._namespace = namespace
        self._pause = pause

    @contextmanager
    def listening(self) -> Iterator[Receive]:
        """Return a function that returns reports, or None after so many seconds. It removes what it returned
        the time before, which is recorded by then: a gateway that dies loses no report. Raises
        `KubernetesUnavailable`."""
        found, returned = deque[Object](), list[str]()

        def receive(seconds: float) -> Datagram | None:
            if returned:
                self._api.delete(CONFIG_MAPS, returned[0], self._namespace)
                returned.clear()
            if not found:
                found.extend(self._api.list(CONFIG_MAPS, self._namespace, REPORTS))
            if not found:
                self._pause(seconds)
                return None
            each = found.popleft()
            returned.append(each["metadata"]["name"])
            return _datagram_of(each)

        yield receive


def _datagram_of(found: Object) -> Datagram | None:
    try:
        return Datagram.decode((found.get("data") or {}).get(_TEXT, "").encode())
    except ValueError as error:
        log.warning("a report of SSH logins is not readable", extra={"error": str(error)})
        return None
