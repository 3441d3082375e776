"""What a cluster does behind its API: a scheduler that allocates devices, a kubelet, and the sessions' sshds.

All of it happens within the request that causes it, unless a test holds it up.
"""

import itertools
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gateway.domain.mig import Gpu
from gateway.errors import KubernetesUnavailable, Unavailable
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
    """`is_scheduling`: pods get a node. `is_stopping`: pods that are deleted go. `image_error` is the reason
    why containers cannot start; None if they can."""

    gpus: Sequence[Gpu]
    node: str = "node-1"
    api: FakeKubernetes = field(default_factory=FakeKubernetes)
    is_scheduling: bool = True
    is_stopping: bool = True
    image_error: str | None = None
    order: list[str] = field(default_factory=list)  # what went, in its order

    def __post_init__(self) -> None:
        self._addresses = (f"10.244.0.{number}" for number in itertools.count(2))
        for found in slices(self.node, self.gpus):
            self.api.put("resourceslices", found)
        for found in device_classes(self.gpus):
            self.api.put("deviceclasses", found)
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        self.api.put("nodes", {"metadata": {"name": self.node}, "status": ready})
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
        return [name for claim in self.api.of("resourceclaims") if (name := _device_of(claim))]

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
        device = self._free_device(claim["spec"]["devices"]["requests"][0]["exactly"]["deviceClassName"])
        if device is None:
            message = "0/1 nodes are available: 1 cannot allocate all claims."
            self._say(name, {"phase": "Pending", "conditions": [_unscheduled(message)]})
            return
        result = {"request": "gpu", "driver": "gpu.nvidia.com", "pool": self.node, "device": device}
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
        self.api.change("pods", "gpu-sessions", name, {"spec": {"nodeName": self.node}})
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
                "podIP": next(self._addresses),
                "containerStatuses": [{"name": "session", "state": running}],
                "conditions": conditions,
            },
        )

    def _say(self, name: str, status: Object) -> None:
        self.api.change("pods", "gpu-sessions", name, {"status": status})

    def _free_device(self, device_class: str) -> str | None:
        devices = {each["name"]: each for found in self.api.of("resourceslices") for each in _devices(found)}
        used: dict[tuple[str, str], int] = {}
        for name in self.allocated():
            for key, amount in _consumed(devices[name]):
                used[key] = used.get(key, 0) + amount
        total = {
            (each["name"], counter): _amount(value)
            for found in self.api.of("resourceslices")
            for each in found["spec"].get("sharedCounters") or ()
            for counter, value in each["counters"].items()
        }
        for name, device in devices.items():
            profile = device["attributes"].get("profile", {}).get("string", "")
            fits = all(used.get(key, 0) + amount <= total[key] for key, amount in _consumed(device))
            if f"mig-{profile.replace('+', '-')}" == device_class and fits:
                return str(name)
        return None

    def _remove_pod(self, name: str) -> None:
        self.order.append(f"pod {name}")
        self.api.remove("pods", "gpu-sessions", name)
        if ("resourceclaims", "gpu-sessions", name) in self.api.objects:
            change: dict[str, Any] = {"metadata": {"finalizers": []}, "status": {"reservedFor": []}}
            self.api.change("resourceclaims", "gpu-sessions", name, change)


@dataclass
class FakeLogins:
    """The sshds of the pods that run. `failure`, while set, is what every login meets."""

    cluster: FakeCluster
    terminals: dict[str, list[str]] = field(default_factory=dict)  # what was written, by address
    connections: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    hooks: set[str] = field(default_factory=set)
    signals: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

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
                return f"{open_now + 1} none 0\n"  # the login itself is one
            case "hook":
                return "started\n" if address in self.hooks else "none\n"
            case "signal":
                self.signals.append(address)
                return f"{open_now}\n"
            case "disconnect":
                self.connections[address] = 0
                return f"{open_now}\n"
            case "-L":
                return _LISTING
            case "true":
                return ""
        return "used\n" if address in self.used else ""

    def _addresses(self) -> set[str]:
        statuses = [found.get("status") or {} for found in self.cluster.api.of("pods")]
        return {status["podIP"] for status in statuses if status.get("phase") == "Running"}


_LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-3e9c)
  MIG 3g.20gb     Device  0: (UUID: MIG-41b3359c-e721-56e5-8009-12e5797ed514)
"""


def _devices(found: Object) -> list[Object]:
    return list(found["spec"].get("devices") or ())


def _device_of(claim: Object) -> str | None:
    allocation = (claim.get("status") or {}).get("allocation")
    return str(allocation["devices"]["results"][0]["device"]) if allocation else None


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
