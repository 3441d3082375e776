"""The Kubernetes API: objects are plain dictionaries, and errors are the gateway's own.

Only this module knows lightkube. Its watch repeats a request that the server has ended, and reads without a
time limit. The transport below ends both, so that no thread waits longer than it asked to.
"""

import builtins
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx2
from lightkube import Client
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ApiError
from lightkube.generic_resource import create_global_resource, create_namespaced_resource
from lightkube.operators import not_equal
from lightkube.types import PatchType

from gateway.errors import KubernetesUnavailable, StartRefused

Object = dict[str, Any]
Labels = Mapping[str, str | None]  # None stands for any value

_CHUNK = 250  # objects in one answer of a list
_SECONDS = 10  # for an answer
_GRACE_SECONDS = 5  # that a watch may last longer than it asked for
_METADATA = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
_NOT_FOUND, _CONFLICT, _GONE = 404, 409, 410


@dataclass(frozen=True, slots=True)
class Kind:
    group: str
    version: str
    name: str
    plural: str
    is_namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return self.name


PODS = Kind("", "v1", "Pod", "pods")
SECRETS = Kind("", "v1", "Secret", "secrets")
CONFIG_MAPS = Kind("", "v1", "ConfigMap", "configmaps")
VOLUME_CLAIMS = Kind("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
DEVICE_CLAIMS = Kind("resource.k8s.io", "v1", "ResourceClaim", "resourceclaims")
DEVICE_CLASSES = Kind("resource.k8s.io", "v1", "DeviceClass", "deviceclasses", is_namespaced=False)
DEVICE_TAINT_RULES = Kind("resource.k8s.io", "v1", "DeviceTaintRule", "devicetaintrules", is_namespaced=False)
SLICES = Kind("resource.k8s.io", "v1", "ResourceSlice", "resourceslices", is_namespaced=False)
SERVICES = Kind("", "v1", "Service", "services")
ENDPOINTS = Kind("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
NODES = Kind("", "v1", "Node", "nodes", is_namespaced=False)
NAMESPACES = Kind("", "v1", "Namespace", "namespaces", is_namespaced=False)
PIPES = Kind("sshpiper.com", "v1beta1", "Pipe", "pipes")


class AlreadyExists(Exception):
    """An object of this name exists."""


class Api:
    """The objects of one cluster. `namespace` is None for kinds without namespaces.

    Raises `KubernetesUnavailable` if the API does not answer or refuses a request.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, manifest: Object) -> Object:
        """Create the object in its namespace. Raises `AlreadyExists`."""
        kind = _kind_of(manifest)
        with _translated(f"create a {kind}"):
            created: Object = self._client.create(
                _resource(kind)(manifest), namespace=_namespace_of(manifest)
            )
        return created

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        with _translated(f"read a {kind}"):
            try:
                found: Object | None = self._client.get(_resource(kind), name, namespace=namespace)
            except ApiError as error:
                if error.status.code != _NOT_FOUND:
                    raise
                found = None
        return found

    def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        labels: Labels | None = None,
        without: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> Iterator[Object]:
        """Return the objects with these labels, without those, and with these values of fields, one after
        another and never all in memory."""
        selector: dict[str, Any] = dict(labels or {})
        selector |= {name: not_equal(value) for name, value in (without or {}).items()}
        with _translated(f"list {kind.plural}"):
            yield from self._client.list(
                _resource(kind),
                namespace=namespace,
                labels=selector or None,
                fields=dict(fields) if fields else None,
                chunk_size=_CHUNK,
            )

    def metadata(
        self, kind: Kind, namespace: str | None = None, labels: Labels | None = None
    ) -> Iterator[Object]:
        """As `list`, without the content of the objects, of which Secrets have much."""
        objects = self.list(kind, namespace, labels)
        while True:
            _this_thread.wants_metadata = True
            try:
                found = next(objects, None)
            finally:
                _this_thread.wants_metadata = False
            if found is None:
                return
            yield found

    def version(self, kind: Kind, namespace: str | None = None) -> str:
        """Return the version after which `has_changed` and `watch` report changes."""
        with _translated(f"list {kind.plural}"):
            found = self._client.list(_resource(kind), namespace=namespace, chunk_size=1)
            next(iter(found), None)
            return found.resourceVersion

    def has_changed(self, kind: Kind, after: str, seconds: int = 1) -> bool:
        """Whether an object of this kind has changed since a version, or the server has forgotten that
        version. It waits so many seconds for the first change."""
        with _translated(f"watch {kind.plural}"):
            events = self._client.watch(
                _resource(kind), namespace=None, server_timeout=seconds, resource_version=after
            )
            _this_thread.may_begin = True
            try:
                return next(events, None) is not None
            except _WatchOver:
                return False
            except ApiError as error:
                if error.status.code == _GONE:
                    return True
                raise
            finally:
                _this_thread.may_begin = False

    def snapshot(
        self, kind: Kind, namespace: str | None = None, labels: Labels | None = None
    ) -> tuple[builtins.list[Object], str]:
        """Return all objects with these labels, and the version after which a watch reports their changes."""
        with _translated(f"list {kind.plural}"):
            found = self._client.list(_resource(kind), namespace=namespace, labels=dict(labels or {}) or None)
            objects: builtins.list[Object] = [*found]
            return objects, found.resourceVersion

    def patch(
        self, kind: Kind, name: str, change: Mapping[str, Any], namespace: str | None = None
    ) -> Object | None:
        """Merge the change into the object. Return the new object; None if there is none of this name."""
        with _translated(f"change a {kind}"):
            try:
                changed: Object | None = self._client.patch(
                    _resource(kind), name, dict(change), namespace=namespace, patch_type=PatchType.MERGE
                )
            except ApiError as error:
                if error.status.code != _NOT_FOUND:
                    raise
                changed = None
        return changed

    def delete(
        self, kind: Kind, name: str, namespace: str | None = None, grace_seconds: int | None = None
    ) -> None:
        """Begin to remove the object. An object that does not exist is no error."""
        with _translated(f"delete a {kind}"):
            try:
                self._client.delete(_resource(kind), name, namespace=namespace, grace_period=grace_seconds)
            except ApiError as error:
                if error.status.code != _NOT_FOUND:
                    raise

    def watch(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        name: str | None = None,
        labels: Labels | None = None,
        after: str | None = None,
        seconds: int = 30,
    ) -> Iterator[tuple[str, Object]]:
        """Report the objects that exist, as ADDED, and then every change, for about so many seconds.

        With `after`, a resource version, report only what changed since. The iteration ends early if the
        server has forgotten that version.
        """
        with _ended(), _translated(f"watch {kind.plural}"):
            events = self._client.watch(
                _resource(kind),
                namespace=namespace,
                labels=dict(labels or {}) or None,
                fields={"metadata.name": name} if name else None,
                server_timeout=seconds,
                resource_version=after,
            )
            _this_thread.may_begin = True
            yield from events


class _WatchOver(httpx2.TransportError):
    """The server has ended a watch, or does not know the version that it begins with."""

    def __init__(self) -> None:
        super().__init__("the watch is over")


class _ThisThread(threading.local):
    """What lightkube cannot pass on to the transport: whether a new watch may begin, and whether the content
    of objects is left out."""

    may_begin = False
    wants_metadata = False


_this_thread = _ThisThread()


class Transport(httpx2.BaseTransport):
    """Sends each watch once, bounds the time between two parts of its answer, and asks for metadata alone."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.params.get("watch") == "true":
            if not _this_thread.may_begin:
                raise _WatchOver
            _this_thread.may_begin = False
            seconds = int(request.url.params.get("timeoutSeconds", _SECONDS))
            request.extensions["timeout"] = {
                **request.extensions.get("timeout", {}),
                "read": seconds + _GRACE_SECONDS,
            }
        if _this_thread.wants_metadata:
            request.headers["Accept"] = _METADATA
            return _with_items(self._inner.handle_request(request))
        return self._inner.handle_request(request)

    def close(self) -> None:
        self._inner.close()


def _with_items(answer: httpx2.Response) -> httpx2.Response:
    """The items of an empty list of metadata are null, which lightkube refuses."""
    content = answer.read().replace(b'"items":null', b'"items":[]')
    answer.close()
    return httpx2.Response(answer.status_code, content=content)


def connect() -> Api:
    """Return the API of the cluster that this process runs in, or of the file that KUBECONFIG names.

    Raises `StartRefused` if there is neither, or the file is wrong.
    """
    try:
        config = KubeConfig.from_env().get()
        verify = verify_cluster(config.cluster, config.user or User(), config.abs_file) if config else None
    except Exception as error:  # noqa: BLE001 (a kubeconfig can be wrong in any way)
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise StartRefused(
            f"No cluster of Kubernetes is known here ({what}): run this in the cluster, or name a valid file "
            "with KUBECONFIG."
        ) from error
    if config is None or config.user is None or verify is None:
        raise StartRefused("KUBECONFIG names no cluster and user: set the current context of the file.")
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=20)
    return over(config, httpx2.HTTPTransport(verify=verify, limits=limits))


def over(config: SingleConfig, transport: httpx2.BaseTransport) -> Api:
    """Return the API that answers on this transport."""
    return Api(Client(config=config, transport=Transport(transport), timeout=httpx2.Timeout(_SECONDS)))


@contextmanager
def _ended() -> Iterator[None]:
    """The end of a watch, whose version may be too old: the caller reads everything again."""
    with suppress(_WatchOver):
        yield


@contextmanager
def _translated(action: str) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        status = error.status
        if status.code == _GONE:
            raise _WatchOver from error
        if status.code == _CONFLICT and status.reason == "AlreadyExists":
            raise AlreadyExists(status.message) from error
        raise KubernetesUnavailable(f"Kubernetes refuses to {action}: {status.message}") from error
    except _WatchOver:
        raise
    except httpx2.HTTPError as error:
        what = str(error) or type(error).__name__
        raise KubernetesUnavailable(f"Kubernetes does not answer ({what}): it could not {action}.") from error


@cache
def _resource(kind: Kind) -> Any:
    make = create_namespaced_resource if kind.is_namespaced else create_global_resource
    return make(kind.group, kind.version, kind.name, kind.plural)


_KINDS = {
    (kind.api_version, kind.name): kind
    for kind in (PODS, SECRETS, CONFIG_MAPS, VOLUME_CLAIMS, DEVICE_CLAIMS, DEVICE_TAINT_RULES, PIPES)
}


def _kind_of(manifest: Object) -> Kind:
    return _KINDS[manifest["apiVersion"], manifest["kind"]]


def _namespace_of(manifest: Object) -> str | None:
    namespace: str | None = manifest["metadata"].get("namespace")
    return namespace
