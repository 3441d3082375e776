"""Nodes without a machine: their objects, their GPUs in NVIDIA's format, and a kubelet that only reports."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import requests

from gateway.domain.mig import Gpu
from tests.fakes.devices import device_classes, slices
from tests.fakes.gpus import FakeGpus
from tests.fleet.api import Api, Object, Refused

A100 = ("A100-40GB",)
FAKE = {"gpu-ssh-gateway.io/fake-node": "true"}  # a label
_HEARTBEAT_SECONDS = 10
_PAUSE_SECONDS = 0.2  # while the API does not answer
_LEASES = "coordination.k8s.io/v1/leases"
_LEASES_OF_NODES = "kube-node-lease"


def gpus_of_a_node(kinds: Sequence[str] = A100) -> list[Gpu]:
    return FakeGpus(kinds).list()


def add_device_classes(api: Api, gpus: Sequence[Gpu]) -> None:
    for manifest in device_classes(gpus):
        with suppress_existing():
            api.create("resource.k8s.io/v1/deviceclasses", manifest)


def publish(api: Api, node: str, gpus: Sequence[Gpu]) -> None:
    """As the DRA driver of the node does."""
    for manifest in slices(node, gpus):
        api.create("resource.k8s.io/v1/resourceslices", manifest)


def add_node(api: Api, name: str, gpus: Sequence[Gpu], memory: str = "1Ti") -> None:
    """A node that is ready, with GPUs."""
    amounts = {"cpu": "128", "memory": memory, "pods": "250", "ephemeral-storage": "1Ti"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "a fake node"}
    labels = {**FAKE, "kubernetes.io/hostname": name}
    status = {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}
    api.create("v1/nodes", {"metadata": {"name": name, "labels": labels}, "status": status})
    publish(api, name, gpus)


def remove_node(api: Api, name: str) -> None:
    api.delete("v1/nodes", name)
    for found in api.list("resource.k8s.io/v1/resourceslices"):
        if found["spec"].get("nodeName") == name:
            api.delete("resource.k8s.io/v1/resourceslices", found["metadata"]["name"])


@contextmanager
def suppress_existing() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        if error.status != requests.codes.conflict:
            raise


@dataclass
class Fakelet:
    """The kubelets of all fake nodes: pods that are bound to one run at once, and go when they are deleted.

    `holds`: names of pods that do not go. `addresses` gives each pod an address. A watch lasts for
    `watch_seconds`, and the end waits for it. Without `beats`, no node reports that it lives.
    """

    api: Api
    holds: set[str] = field(default_factory=set)
    addresses: Iterator[str] = field(default_factory=lambda: map("10.244.0.{}".format, itertools.count(2)))
    beats: bool = True
    watch_seconds: int = 2

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=each) for each in self._duties()]

    def __enter__(self) -> "Fakelet":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def end(self, name: str, namespace: str) -> None:
        """Report that the pod's containers have ended by themselves."""
        pod = self.api.get("v1/pods", name, namespace)
        assert pod, f"there is no pod {name}"
        ended = {"terminated": {"exitCode": 0, "reason": "Completed"}}
        containers = [
            {**each, "ready": False, "started": False, "state": ended}
            for each in pod["status"]["containerStatuses"]
        ]
        status = {"phase": "Succeeded", "containerStatuses": containers}
        self.api.change("v1/pods", f"{name}/status", {"status": status}, namespace)

    def _duties(self) -> list[Callable[[], None]]:
        return [self._follow, self._beat] if self.beats else [self._follow]

    def _follow(self) -> None:
        while not self._over.is_set():
            try:
                nodes = self._nodes()
                for event, pod in self.api.watch("v1/pods", self.watch_seconds):
                    if self._over.is_set():
                        return
                    if event in ("ADDED", "MODIFIED") and pod["spec"].get("nodeName"):
                        nodes = nodes if pod["spec"]["nodeName"] in nodes else self._nodes()
                        self._see(pod, nodes)
            except (Refused, requests.RequestException):
                self._over.wait(_PAUSE_SECONDS)

    def _see(self, pod: Object, nodes: set[str]) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        if pod["spec"]["nodeName"] not in nodes:
            return
        if pod["metadata"].get("deletionTimestamp"):
            if name not in self.holds:
                self.api.delete("v1/pods", name, namespace, grace=0)
        elif (pod.get("status") or {}).get("phase") == "Pending":
            with suppress(Refused):  # the pod is gone already
                run(self.api, pod, next(self.addresses))

    def _nodes(self) -> set[str]:
        nodes = self.api.list("v1/nodes")
        return {
            node["metadata"]["name"] for node in nodes if FAKE.items() <= node["metadata"]["labels"].items()
        }

    def _beat(self) -> None:
        """Without a heartbeat a node counts as lost after 40 s."""
        while not self._over.is_set():
            with suppress(Refused, requests.RequestException):
                for name in self._nodes():
                    self._renew(name)
            self._over.wait(_HEARTBEAT_SECONDS)

    def _renew(self, name: str) -> None:
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now}
        try:
            self.api.change(_LEASES, name, {"spec": spec}, _LEASES_OF_NODES)
        except Refused as error:
            if error.status != requests.codes.not_found:
                raise
            metadata = {"name": name, "namespace": _LEASES_OF_NODES}
            self.api.create(_LEASES, {"metadata": metadata, "spec": spec})


def run(api: Api, pod: Object, address: str) -> None:
    """Report that the pod's containers run, as its kubelet does."""
    now, metadata = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", pod["metadata"]
    running = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": True,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": now}},
        }
        for container in pod["spec"]["containers"]
    ]
    conditions = [{"type": each, "status": "True"} for each in ("PodScheduled", "Ready")]
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": now,
        "containerStatuses": running,
        "conditions": conditions,
    }
    api.change("v1/pods", f"{metadata['name']}/status", {"status": status}, metadata["namespace"])
