"""The API of Kubernetes in memory, below the HTTP client: what is asked of it, and how it answers.

It keeps objects by kind, namespace and name with their versions. It knows conflicts, labels, chunks,
finalisers, graceful deletion, watches and versions that it has forgotten. It passes the same tests as a real
API server.
"""

import copy
import itertools
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import Cluster, Context, User

from gateway.repositories.kubernetes.api import Api, over

Object = dict[str, Any]
Key = tuple[str, str, str]  # plural, namespace, name
_METADATA = (
    "as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"  # a real server ignores a form that it does not know
)


@dataclass
class FakeKubernetes(httpx2.BaseTransport):
    """`changed` is called after each change, as controllers are: with the event's type and the object.

    While `is_down`, nobody answers. `refusals` maps a verb and a plural to the message of a refusal.
    """

    objects: dict[Key, Object] = field(default_factory=dict)
    changed: Callable[[str, Object], None] = lambda event, found: None
    is_down: bool = False
    refusals: dict[tuple[str, str], str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._versions = itertools.count(1)
        self._history: list[tuple[int, str, Key, Object]] = []
        self._oldest = 0
        self._chunks: dict[str, list[Object]] = {}
        self.lock = threading.RLock()
        self._news = threading.Condition(self.lock)

    @property
    def api(self) -> Api:
        user = User()
        config = SingleConfig("fake", Context("fake"), Cluster(server="http://kubernetes"), user)
        return over(config, self)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.is_down:
            raise httpx2.ConnectError("Connection refused")
        plural, namespace, name = _address(request.url.path)
        query = request.url.params
        verb = "watch" if query.get("watch") else request.method
        self.requests.append(f"{verb} {plural}")
        if refusal := self.refusals.get((verb, plural)):
            return _status(403, "Forbidden", refusal)
        with self.lock:
            match verb:
                case "watch":
                    return self._watch(plural, namespace, query)
                case "GET" if name:
                    found = self.objects.get((plural, namespace, name))
                    return _answer(found) if found else _not_found(plural, name)
                case "GET":
                    is_whole = _METADATA not in request.headers.get("Accept", "")
                    return self._list(plural, namespace, query, is_whole)
                case "POST":
                    return self._create(plural, namespace, json.loads(request.content))
                case "PATCH":
                    return self._patch((plural, namespace, name), json.loads(request.content))
                case _:
                    return self._delete((plural, namespace, name), query)

    # What controllers, nodes and administrators do

    def put(self, plural: str, found: Object) -> None:
        """Create or replace an object."""
        with self.lock:
            metadata = found["metadata"]
            key = (plural, metadata.get("namespace", ""), metadata["name"])
            self._store(key, found, "MODIFIED" if key in self.objects else "ADDED")

    def change(self, plural: str, namespace: str, name: str, change: Mapping[str, Any]) -> None:
        with self.lock:
            key = (plural, namespace, name)
            self._store(key, _merged(self.objects[key], change), "MODIFIED")

    def remove(self, plural: str, namespace: str, name: str) -> None:
        """Remove an object at once, as a node does with a pod that has ended."""
        with self.lock:
            if found := self.objects.pop((plural, namespace, name), None):
                self._report((plural, namespace, name), found, "DELETED")

    def forget_versions(self) -> None:
        """Compact the history: a watch from an older version is refused."""
        with self.lock:
            self._oldest = next(self._versions)
            self._history.clear()
            self._news.notify_all()

    def names(self, plural: str) -> list[str]:
        with self.lock:
            return sorted(name for kind, _, name in self.objects if kind == plural)

    def of(self, plural: str) -> list[Object]:
        with self.lock:
            return [copy.deepcopy(found) for (kind, _, _), found in self.objects.items() if kind == plural]

    # What the API answers

    def _create(self, plural: str, namespace: str, found: Object) -> httpx2.Response:
        key = (plural, namespace, found["metadata"]["name"])
        if key in self.objects:
            return _status(409, "AlreadyExists", f'{plural} "{key[2]}" already exists')
        found["metadata"] |= {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": _now(),
            **({"namespace": namespace} if namespace else {}),
        }
        return _answer(self._store(key, found, "ADDED"), 201)

    def _patch(self, key: Key, change: Mapping[str, Any]) -> httpx2.Response:
        if key not in self.objects:
            return _not_found(key[0], key[2])
        merged = _merged(self.objects[key], change)
        self._store(key, merged, "MODIFIED")
        return _answer(self.objects.get(key, merged))

    def _delete(self, key: Key, query: httpx2.QueryParams) -> httpx2.Response:
        """A pod that runs, or an object with finalisers, is only marked, once: its controller removes it."""
        found = self.objects.get(key)
        if found is None:
            return _not_found(key[0], key[2])
        is_pod = key[0] == "pods" and (found.get("spec") or {}).get("nodeName")
        waits = is_pod and query.get("gracePeriodSeconds") != "0"
        if waits or found["metadata"].get("finalizers"):
            mark = {
                "deletionTimestamp": found["metadata"].get("deletionTimestamp") or _now(),
                "deletionGracePeriodSeconds": int(query.get("gracePeriodSeconds", 30)),
            }
            self._store(key, _merged(found, {"metadata": mark}), "MODIFIED")
        else:
            self.remove(*key)
        return httpx2.Response(200, json={"kind": "Status", "status": "Success"})

    def _list(
        self, plural: str, namespace: str, query: httpx2.QueryParams, is_whole: bool
    ) -> httpx2.Response:
        token = query.get("continue")
        found = self._chunks.pop(token) if token else self._matching(plural, namespace, query)
        limit = int(query.get("limit", len(found) or 1))
        metadata = {"resourceVersion": str(next(self._versions))}
        if len(found) > limit:
            metadata["continue"] = str(uuid.uuid4())
            self._chunks[metadata["continue"]] = found[limit:]
        items: list[Object] | None = found[:limit]
        if not is_whole:  # a real server says null for none
            items = [{"metadata": each["metadata"]} for each in found[:limit]] or None
        return _answer({"kind": "List", "metadata": metadata, "items": items})

    def _matching(self, plural: str, namespace: str, query: httpx2.QueryParams) -> list[Object]:
        return [
            copy.deepcopy(found)
            for key, found in self.objects.items()
            if _is_meant(key, found, plural, namespace, query)
        ]

    def _watch(self, plural: str, namespace: str, query: httpx2.QueryParams) -> httpx2.Response:
        seconds, version = float(query.get("timeoutSeconds", 30)), query.get("resourceVersion")
        first = [] if version else self._matching(plural, namespace, query)
        after = int(version) if version else next(self._versions)
        deadline = time.monotonic() + seconds

        def events() -> Iterator[bytes]:
            last = after
            for found in first:
                yield _line("ADDED", found)
            while (left := deadline - time.monotonic()) > 0 and not self.is_down:
                with self._news:
                    if last < self._oldest:
                        yield _line("ERROR", _failure(410, "Expired", "too old resource version"))
                        return
                    news = [each for each in self._history if each[0] > last]
                    if not news:
                        self._news.wait(min(left, 0.5))
                for number, event, key, found in news:
                    last = number
                    if _is_meant(key, found, plural, namespace, query):
                        yield _line(event, found)

        return httpx2.Response(200, content=events(), headers={"Content-Type": "application/json"})

    def _store(self, key: Key, found: Object, event: str) -> Object:
        """Return the object as it is stored, before anybody reacts to it."""
        found = copy.deepcopy(found)
        is_over = found["metadata"].get("deletionTimestamp") and not found["metadata"].get("finalizers")
        if is_over and key[0] != "pods":
            self.objects.pop(key, None)
            self._report(key, found, "DELETED")
            return found
        self.objects[key] = found
        self._report(key, found, event)
        return found

    def _report(self, key: Key, found: Object, event: str) -> None:
        number = next(self._versions)
        found["metadata"]["resourceVersion"] = str(number)
        self._history.append((number, event, key, copy.deepcopy(found)))
        self._news.notify_all()
        self.changed(event, copy.deepcopy(found))


def _address(path: str) -> Key:
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:
        namespace, parts = parts[1], parts[2:]
    return parts[0], namespace, parts[1] if len(parts) > 1 else ""


def _is_meant(key: Key, found: Object, plural: str, namespace: str, query: httpx2.QueryParams) -> bool:
    if key[0] != plural or (namespace and key[1] != namespace):
        return False
    fields = [text.partition("=") for text in query.get("fieldSelector", "").split(",") if text]
    labels = found["metadata"].get("labels") or {}
    wanted = [text for text in query.get("labelSelector", "").split(",") if text]
    if not all(_field(found, path) == value for path, _, value in fields):
        return False
    return all(_has(labels, text) for text in wanted)


def _field(found: Object, path: str) -> Any:
    value: Any = found
    for name in path.split("."):
        value = (value or {}).get(name)
    return value


def _has(labels: Mapping[str, str], wanted: str) -> bool:
    if "!=" in wanted:
        name, _, value = wanted.partition("!=")
        return labels.get(name) != value
    name, has_value, value = wanted.partition("=")
    return labels.get(name) == value if has_value else name in labels


def _merged(found: Object, change: Mapping[str, Any]) -> Object:
    merged = dict(found)
    for name, value in change.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            merged[name] = _merged(merged.get(name) or {}, value)
        else:
            merged[name] = value
    return merged


def _answer(found: Object, status: int = 200) -> httpx2.Response:
    return httpx2.Response(status, json=copy.deepcopy(found))


def _not_found(plural: str, name: str) -> httpx2.Response:
    return _status(404, "NotFound", f'{plural} "{name}" not found')


def _status(code: int, reason: str, message: str) -> httpx2.Response:
    return httpx2.Response(code, json=_failure(code, reason, message))


def _failure(code: int, reason: str, message: str) -> Object:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


def _line(event: str, found: Object) -> bytes:
    return json.dumps({"type": event, "object": found}).encode() + b"\n"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
