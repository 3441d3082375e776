"""Follows the ends of the sessions' pods."""

import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue

from gateway.errors import KubernetesUnavailable
from gateway.repositories.kubernetes.api import PODS, Api
from gateway.repositories.kubernetes.objects import MANAGED
from gateway.repositories.kubernetes.pod_facts import PodFacts

_SECONDS = 30  # after which the server ends a watch, and a closed one is noticed at last


class PodEndings:
    """Reports the pods that end or go from now on. A thread watches, because nothing can interrupt a watch.
    `close` ends the iteration at once, and the thread at the next event. Raises `KubernetesUnavailable`."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._namespace = namespace
        self._ids: SimpleQueue[str | None] = SimpleQueue()
        self._closed = threading.Event()
        version = api.version(PODS, namespace)
        threading.Thread(target=self._run, args=(version,), name="pods", daemon=True).start()

    def __iter__(self) -> Iterator[str]:
        while (session_id := self._ids.get()) is not None:
            yield session_id

    def close(self) -> None:
        self._closed.set()
        self._ids.put(None)

    def _run(self, version: str) -> None:
        """Each watch begins where the last one ended: ten thousand pods are 90 MB. The iteration ends if the
        server has forgotten that version, which it says at once."""
        try:
            while not self._closed.is_set():
                began, before = time.monotonic(), version
                version = self._follow(before)
                if version == before and time.monotonic() - began < _SECONDS / 2:
                    break
        except KubernetesUnavailable:
            pass
        finally:
            self._ids.put(None)

    def _follow(self, version: str) -> str:
        """Report each pod that has ended or goes, once. Return the version of the last change."""
        reported: set[str] = set()
        changes = self._api.watch(PODS, self._namespace, labels=MANAGED, after=version, seconds=_SECONDS)
        for event, found in changes:
            version = found["metadata"]["resourceVersion"]
            if self._closed.is_set():
                break
            pod = PodFacts.of(found)
            if (event == "DELETED" or pod.ended) and pod.session_id not in reported:
                reported.add(pod.session_id)
                self._ids.put(pod.session_id)
        return version
