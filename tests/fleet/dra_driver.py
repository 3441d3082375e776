"""A stand-in for NVIDIA's DRA driver: it publishes simulated GPUs, and prepares claims on them.

    python -m tests.fleet.dra_driver DIRECTORY KUBECONFIG NODE KIND…

The kubelet talks to it by gRPC over two sockets. A prepared claim is a file in DIRECTORY/slices: it is
written when the slice is made and removed when the slice is destroyed. The driver refuses a slice that
overlaps another one, as the hardware does.
"""

import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import requests

from tests.fakes.devices import DRIVER, slices
from tests.fakes.gpus import FakeGpus
from tests.fleet.api import Api, Object, Refused
from tests.fleet.nodes import suppress_existing
from tests.fleet.wire import Message, message, read

_CLAIMS = "resource.k8s.io/v1/resourceclaims"
_SLICES = "resource.k8s.io/v1/resourceslices"
_KIND = "gpu-ssh-gateway.io/slice"  # of CDI
_SERVICE = "k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin"
_REGISTRATION = "pluginregistration.Registration"
_DESTROYING_SECONDS = 0.5  # NVIDIA's driver needs about a second
_PUBLISHING_SECONDS = 1.0


@dataclass
class Driver:
    api: Api
    directory: Path
    node: str
    kinds: tuple[str, ...]
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        gpus = [
            replace(gpu, uuid=_uuid_of(self.node, gpu.index), simulated=False)
            for gpu in FakeGpus(self.kinds).list()
        ]
        self._published = list(slices(self.node, gpus))
        self._devices = {
            device["name"]: device for each in self._published for device in each["spec"].get("devices", ())
        }

    def publish(self) -> None:
        """A kubelet that starts removes what its node published. The end of the node removes it, too."""
        node = self.api.get("v1/nodes", self.node)
        if node is None:
            return
        owner = {"apiVersion": "v1", "kind": "Node", "name": self.node, "uid": node["metadata"]["uid"]}
        for manifest in self._published:
            owned = {**manifest["metadata"], "ownerReferences": [owner]}
            with suppress_existing():
                self.api.create(_SLICES, {**manifest, "metadata": owned})

    def prepare(self, request: bytes, _: object) -> bytes:
        return _answers(request, self._prepare)

    def unprepare(self, request: bytes, _: object) -> bytes:
        return _answers(request, self._unprepare)

    def _prepare(self, claim: Message) -> bytes:
        found = self.api.get(_CLAIMS, claim.text(3), claim.text(1))
        if found is None or found["metadata"]["uid"] != claim.text(2):
            return message({2: f"the claim {claim.text(3)} is gone"})
        with self._lock:
            devices = [self._make(claim.text(2), result) for result in _results(found)]
        return message(*({1: device} for device in devices))

    def _make(self, claim: str, result: Object) -> bytes:
        file = self.directory / "slices" / claim
        if not file.exists():
            self._refuse_overlap(result["device"])
            slice_id = f"MIG-{uuid.uuid4()}"
            file.write_text(json.dumps({"device": result["device"], "uuid": slice_id}))
            self._describe(claim, slice_id, result["device"])
        request = result["request"].partition("/")[0]  # without the name of the chosen alternative
        return message({1: request, 2: result["pool"], 3: result["device"], 4: f"{_KIND}={claim}"})

    def _refuse_overlap(self, name: str) -> None:
        wanted = _memory_slices(self._devices[name])
        for file in (self.directory / "slices").iterdir():
            other = json.loads(file.read_text())["device"]
            if wanted & _memory_slices(self._devices[other]):
                raise ValueError(f"{name} overlaps {other}, which is still there")

    def _describe(self, claim: str, slice_id: str, device: str) -> None:
        """What the container runtime adds to the container: an `nvidia-smi` that lists the slice."""
        program = self.directory / "cdi" / f"{claim}.sh"
        listing = f"GPU 0: simulated (UUID: GPU-0)\n  MIG {device} Device 0: (UUID: {slice_id})"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{listing}\nEND\n")
        program.chmod(0o755)
        mount = {"hostPath": str(program), "containerPath": "/usr/bin/nvidia-smi", "options": ["ro", "bind"]}
        edits = {"env": [f"NVIDIA_VISIBLE_DEVICES={slice_id}"], "mounts": [mount]}
        devices = [{"name": claim, "containerEdits": edits}]
        spec = {"cdiVersion": "0.6.0", "kind": _KIND, "devices": devices}
        (self.directory / "cdi" / f"{claim}.json").write_text(json.dumps(spec))

    def _unprepare(self, claim: Message) -> bytes:
        """Not an error for a claim that is not prepared: the kubelet may ask twice."""
        file = self.directory / "slices" / claim.text(2)
        if file.exists():
            time.sleep(_DESTROYING_SECONDS)
            with self._lock:
                file.unlink(missing_ok=True)
        for path in (self.directory / "cdi").glob(f"{claim.text(2)}.*"):
            path.unlink(missing_ok=True)
        return b""


def _uuid_of(node: str, index: int) -> str:
    """A GPU keeps its UUID when the driver starts again."""
    return f"GPU-{uuid.uuid5(uuid.NAMESPACE_OID, f'{node}/{index}')}"


def _answers(request: bytes, answer: Any) -> bytes:
    """The claims of a request, each with its answer: entries of a map, by the claim's uid."""
    entries = []
    for part in read(request).parts(1):
        claim = read(part)
        try:
            made = answer(claim)
        except (Refused, OSError, ValueError, KeyError) as error:
            made = message({2 if answer.__name__ == "_prepare" else 1: str(error)})
        entries.append({1: message({1: claim.text(2), 2: made})})
    return message(*entries)


def _results(claim: Object) -> list[Object]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    return [
        each for each in (allocation.get("devices") or {}).get("results") or () if each["driver"] == DRIVER
    ]


def _memory_slices(device: Object) -> set[tuple[str, str]]:
    return {
        (each["counterSet"], name)
        for each in device["consumesCounters"]
        for name in each["counters"]
        if name.startswith("memory-slice-")
    }


@contextmanager
def _served(socket: Path, service: str, **methods: Any) -> Iterator[None]:
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    handlers: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()
    }
    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    server.add_insecure_port(f"unix://{socket}")
    server.start()
    yield
    server.stop(None)


def main(directory: Path, kubeconfig: Path, node: str, kinds: tuple[str, ...]) -> None:
    configuration = json.loads(kubeconfig.read_text())
    cluster, user = configuration["clusters"][0]["cluster"], configuration["users"][0]["user"]
    api = Api(cluster["server"], cluster["certificate-authority"], user["token"])
    driver = Driver(api, directory, node, kinds)
    plugins, registry = directory / "kubelet/plugins", directory / "kubelet/plugins_registry"
    socket = plugins / DRIVER / "dra.sock"
    methods = {"NodePrepareResources": driver.prepare, "NodeUnprepareResources": driver.unprepare}
    information = message({1: "DRAPlugin", 2: DRIVER, 3: str(socket)}, {4: "v1.DRAPlugin"})
    registration = {
        "GetInfo": lambda request, _: information,
        "NotifyRegistrationStatus": lambda request, _: b"",
    }
    with (
        _served(socket, _SERVICE, **methods),
        _served(registry / f"{DRIVER}-reg.sock", _REGISTRATION, **registration),
    ):
        while True:
            with suppress(Refused, requests.RequestException):  # the API server may be away
                driver.publish()
            time.sleep(_PUBLISHING_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], tuple(sys.argv[4:]))
