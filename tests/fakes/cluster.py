"""What a cluster does behind its API: a scheduler that allocates devices, a kubelet, and the sessions' sshds.

All of it happens within the request that causes it, unless a test holds it up.
"""

import itertools
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.domain.mig import Gpu
from gateway.errors import ContainerFailed, KubernetesUnavailable, Unavailable
from gateway.repositories.kubernetes.logins import Login, NotReachable
from tests.fakes.devices import device_classes, slices
from tests.fakes.kubernetes import FakeKubernetes, Object

_PROTECTION = "resource.kubernetes.io/delete-protection"


class MemoryLocks:
    """The locks of one process."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._free = threading.Condition()

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        with self._free:
            if not self._free.wait_for(lambda: name not in self._held, 10):
                raise Unavailable(f"{name} is locked.")
            self._held.add(name)
        try:
            yield
        finally:
            with self._free:
                self._held.discard(name)
                self._free.notify_all()

    def held(self, names: Collection[str]) -> set[str]:
        with self._free:
            return self._held & set(names)


@dataclass
class FakeCluster:
    """`gpus` are those of the first node, and `more` those of others. `is_scheduling`: pods get a node.
    `is_stopping`: pods that are deleted go. `image_error` is the reason why containers cannot start; None if
    they can."""

    gpus: Sequence[Gpu]
    more: Mapping[str, Sequence[Gpu]] = field(default_factory=dict)
    node: str = "node-1"
    api: FakeKubernetes = field(default_factory=FakeKubernetes)
    is_scheduling: bool = True
    is_stopping: bool = True
    image_error: str | None = None
    order: list[str] = field(default_factory=list)  # what went, in its order
    free_addresses: list[str] = field(default_factory=list)  # of pods that have gone; the next ones get them

    def __post_init__(self) -> None:
        self._addresses = (f"10.244.0.{number}" for number in itertools.count(2))
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        for node, gpus in {self.node: self.gpus, **self.more}.items():
            for found in slices(node, gpus):
                self.api.put("resourceslices", found)
            for found in device_classes(gpus):
                self.api.put("deviceclasses", found)
            self.api.put("nodes", {"metadata": {"name": node}, "status": ready})
        self.api.put("namespaces", {"metadata": {"name": "kube-system", "uid": "a-cluster"}})
        self.api.changed = self._react

    def go_on(self) -> None:
        """Do what was held up."""
        for pod in self.api.of("pods"):
            self._react("MODIFIED", pod)

    def end(self, session_id: str, exit_code: int = 0, reason: str = "Completed") -> None:
        """The main process of a session ends by itself."""
        ended = {"terminated": {"exitCode": exit_code, "reason": reason}}
        phase = "Failed" if exit_code else "Succeeded"
        status = {"phase": phase, "containerStatuses": [{"name": "session", "state": ended}]}
        self.api.change("pods", "gpu-sessions", f"s-{session_id}", {"status": status})

    def lose(self, session_id: str) -> None:
        """Somebody removes a session's pod."""
        self._remove_pod(f"s-{session_id}")

    def allocated(self) -> list[str]:
        """The names of the devices that claims have."""
        return [has["device"] for claim in self.api.of("resourceclaims") if (has := _allocated(claim))]

    def _react(self, event: str, found: Object) -> None:
        if event == "DELETED" or found.get("kind") != "Pod":
            return
        name, status = found["metadata"]["name"], found.get("status") or {}
        if found["metadata"].get("deletionTimestamp"):
            if self.is_stopping:
                self._remove_pod(name)
        elif not status.get("phase") and not found["spec"].get("nodeName") and self.is_scheduling:
            self._start(name, found)

    def _start(self, name: str, found: Object) -> None:
        claim = self.api.objects["resourceclaims", "gpu-sessions", name]
        chosen = self._choose(claim["spec"]["devices"]["requests"][0], _nodes_of(found))
        if chosen is None:
            message = "0/1 nodes are available: 1 cannot allocate all claims."
            self._say(name, {"phase": "Pending", "conditions": [_unscheduled(message)]})
            return
        node, device = chosen
        result = {"request": "gpu", "driver": "gpu.nvidia.com", "pool": node, "device": device}
        self.api.change(
            "resourceclaims",
            "gpu-sessions",
            name,
            {
                "metadata": {"finalizers": [_PROTECTION]},
                "status": {
                    "allocation": {"devices": {"results": [result]}},
                    "reservedFor": [{"resource": "pods", "name": name}],
                },
            },
        )
        self.api.change("pods", "gpu-sessions", name, {"spec": {"nodeName": node}})
        if self.image_error:
            waiting = {"waiting": {"reason": self.image_error, "message": "no such image"}}
            self._say(name, {"phase": "Pending", "containerStatuses": [{"state": waiting}]})
            return
        running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
        conditions = [{"type": "Ready", "status": "True"}]
        self._say(
            name,
            {
                "phase": "Running",
                "podIP": self.free_addresses.pop() if self.free_addresses else next(self._addresses),
                "containerStatuses": [{"name": "session", "state": running}],
                "conditions": conditions,
            },
        )

    def _say(self, name: str, status: Object) -> None:
        self.api.change("pods", "gpu-sessions", name, {"status": status})

    def _choose(self, request: Object, nodes: Sequence[str] | None) -> tuple[str, str] | None:
        """The first node, and on it the first device that the request allows; None if there is none."""
        for node in nodes or [self.node, *self.more]:
            devices = [device for found in self._slices(node) for device in _devices(found)]
            for wanted in request.get("firstAvailable") or [request["exactly"]]:
                for device in devices:
                    is_open = self._is_free(node, device) and not self._is_tainted(node, device)
                    if _is_wanted(device, wanted) and is_open:
                        return node, device["name"]
        return None

    def _is_tainted(self, node: str, device: Object) -> bool:
        selected = {"driver": "gpu.nvidia.com", "pool": node, "device": device["name"]}
        rules = [rule["spec"] for rule in self.api.of("devicetaintrules")]
        return any(
            rule["taint"]["effect"] == "NoSchedule" and rule["deviceSelector"] == selected for rule in rules
        )

    def _is_free(self, node: str, device: Object) -> bool:
        used: dict[tuple[str, str], int] = {}
        for claim in self.api.of("resourceclaims"):
            if (has := _allocated(claim)) and has["pool"] == node:
                for key, amount in _consumed(self._device(node, has["device"])):
                    used[key] = used.get(key, 0) + amount
        total = self._counters(node)
        return all(used.get(key, 0) + amount <= total[key] for key, amount in _consumed(device))

    def _device(self, node: str, name: str) -> Object:
        every = (each for found in self._slices(node) for each in _devices(found))
        return next(each for each in every if each["name"] == name)

    def _counters(self, node: str) -> dict[tuple[str, str], int]:
        return {
            (each["name"], counter): _amount(value)
            for found in self._slices(node)
            for each in found["spec"].get("sharedCounters") or ()
            for counter, value in each["counters"].items()
        }

    def _slices(self, node: str) -> list[Object]:
        return [found for found in self.api.of("resourceslices") if found["spec"]["nodeName"] == node]

    def _remove_pod(self, name: str) -> None:
        self.order.append(f"pod {name}")
        self.api.remove("pods", "gpu-sessions", name)
        if ("resourceclaims", "gpu-sessions", name) in self.api.objects:
            change: dict[str, Any] = {"metadata": {"finalizers": []}, "status": {"reservedFor": []}}
            self.api.change("resourceclaims", "gpu-sessions", name, change)


_LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-3e9c)
  MIG 3g.20gb     Device  0: (UUID: MIG-41b3359c-e721-56e5-8009-12e5797ed514)
"""


@dataclass
class FakeLogins:
    """The sshds of the pods that run."""

    cluster: FakeCluster
    terminals: dict[str, list[str]] = field(default_factory=dict)  # what was written, by address
    connections: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    hooks: set[str] = field(default_factory=set)
    signals: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    on_gpu: dict[str, str] = field(default_factory=dict)  # programs that have the GPU open, by address
    cpu_microseconds: int = 0
    listing: str | ContainerFailed = _LISTING  # of nvidia-smi

    def run(self, login: Login, command: Sequence[str]) -> str:
        if self.cluster.api.is_down:
            raise KubernetesUnavailable("The network of the cluster is away.")
        if login.address not in self._addresses():
            raise NotReachable(f"No sshd answers at {login.address}.")
        address, name = login.address, command[3] if len(command) > 3 else command[-1]
        self.commands.append(name)
        open_now = self.connections.get(address, 0)
        match name:
            case "tell":
                self.terminals.setdefault(address, []).append(command[4])
                return f"{open_now}\n"
            case "activity":
                self.cpu_microseconds += 1000
                return f"{open_now} none {self.cpu_microseconds} -\n"
            case "gpu":
                return f"{self.on_gpu.get(address, '0')}\n"
            case "hook":
                return "started\n" if address in self.hooks else "none\n"
            case "signal":
                self.signals.append(address)
                return f"{open_now}\n"
            case "disconnect":
                self.connections[address] = 0
                return f"{open_now}\n"
            case "-L":
                if isinstance(self.listing, ContainerFailed):
                    raise self.listing
                return self.listing
            case "true":
                return ""
        return "used\n" if address in self.used else ""

    def _addresses(self) -> set[str]:
        statuses = [found.get("status") or {} for found in self.cluster.api.of("pods")]
        return {status["podIP"] for status in statuses if status.get("phase") == "Running"}


def _devices(found: Object) -> list[Object]:
    return list(found["spec"].get("devices") or ())


def _allocated(claim: Object) -> Object | None:
    allocation = (claim.get("status") or {}).get("allocation")
    result: Object | None = allocation["devices"]["results"][0] if allocation else None
    return result


def _is_wanted(device: Object, wanted: Object) -> bool:
    """By the name of the class, and by the one expression that claims have."""
    texts = {name: value.get("string", "") for name, value in device["attributes"].items()}
    selectors = [each["cel"]["expression"] for each in wanted.get("selectors") or ()]
    is_selected = all(each.endswith(f'== "{texts.get("parentUUID")}"') for each in selectors)
    return is_selected and wanted["deviceClassName"] == f"mig-{texts.get('profile', '').replace('+', '-')}"


def _nodes_of(pod: Object) -> list[str] | None:
    """The nodes that a pod names, the preferred one first; None for any."""
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity")
    if affinity is None:
        return None
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    first = [_node_of(each["preference"]) for each in preferred]
    return sorted(map(_node_of, terms), key=lambda name: name not in first)


def _node_of(term: Object) -> str:
    [field] = term["matchFields"]
    [name] = field["values"]
    return str(name)


def _consumed(device: Object) -> list[tuple[tuple[str, str], int]]:
    return [
        ((each["counterSet"], name), _amount(value))
        for each in device.get("consumesCounters") or ()
        for name, value in each["counters"].items()
    ]


def _amount(value: Object) -> int:
    return int(str(value["value"]).removesuffix("Mi"))


def _unscheduled(message: str) -> Object:
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
