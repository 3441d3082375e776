"""Follows the ends of the sessions' pods."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue

from gateway.errors import KubernetesUnavailable
from gateway.repositories.kubernetes.api import PODS, Api
from gateway.repositories.kubernetes.objects import MANAGED
from gateway.repositories.kubernetes.pod_facts import PodFacts

_SECONDS = 30  # after which the server ends a watch, and a closed one is noticed at last


class PodEndings:
    """A thread watches, because nothing can interrupt a watch. `close` ends the iteration at once, and the
    thread at the next event."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._ids: SimpleQueue[str | None] = SimpleQueue()
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="pods", daemon=True).start()

    def __iter__(self) -> Iterator[str]:
        while (session_id := self._ids.get()) is not None:
            yield session_id

    def close(self) -> None:
        self._closed.set()
        self._ids.put(None)

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                self._follow()
        except KubernetesUnavailable:
            pass
        finally:
            self._ids.put(None)

    def _follow(self) -> None:
        """Report each pod that has ended or goes, once. A watch begins with all pods, so an end before it is
        not missed. The reconciler finds a pod that goes between two watches."""
        reported: set[str] = set()
        for event, found in self._api.watch(PODS, self._namespace, labels=MANAGED, seconds=_SECONDS):
            if self._closed.is_set():
                return
            pod = PodFacts.of(found)
            if (event == "DELETED" or pod.ended) and pod.session_id not in reported:
                reported.add(pod.session_id)
                self._ids.put(pod.session_id)
