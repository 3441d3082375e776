"""A real node beside a control plane: containerd, a kubelet and a stand-in for NVIDIA's DRA driver.

Kubelets set parameters of the kernel. Files of the place lie over these parameters, so the machine keeps its
own.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import own
from tests.fleet import programs
from tests.fleet.api import Object
from tests.fleet.control_plane import NODES, ControlPlane, control_plane
from tests.fleet.place import Place, a_place
from tests.paths import REPOSITORY

CNI = Path("/usr/lib/cni")
KINDS = ("A100-40GB",)
STORAGE_CLASS = "directories"
_PAUSE = "pause"  # an image whose container holds the namespaces of a pod
_HOMES = 24
_SECONDS = 180
_CGROUPS = Path("/sys/fs/cgroup")
# What a kubelet wants of the kernel; it writes nothing where it reads the value that it wants.
_KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
_WITHOUT_IPV6 = {"type": "tuning", "sysctl": {"net.ipv6.conf.all.disable_ipv6": "1"}}
_PAUSE_ALONE = r"""
printf '#!/bin/sh\ntrap exit TERM\nwhile :; do sleep 600 & wait; done\n' > /pause && chmod 755 /pause
libraries=$(ldd /bin/sh /usr/bin/sleep | grep -o '/lib[^ ]*' | sort -u | sed 's,^/,,')
tar --create --dereference --directory=/ bin/sh usr/bin/sleep pause $libraries
"""


@dataclass
class Node:
    """Its programs are `containerd`, `kubelet` and `dra-driver`, which a test may stop and start."""

    plane: ControlPlane
    name: str
    place: Place
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        self._containerd = self.directory / "containerd"
        self._kubelet = self.directory / "kubelet"

    @property
    def directory(self) -> Path:
        return self.place.directory

    @property
    def prepared(self) -> Path:
        """A directory with a file for each claim whose slice exists now."""
        return self.directory / "slices"

    def slices(self) -> list[str]:
        """The devices that exist now, as the driver knows them."""
        return sorted(json.loads(file.read_text())["device"] for file in self.prepared.iterdir())

    def start(self, images: Sequence[str]) -> None:
        """With images of the machine's Docker: `image_of(NAME)` is what a pod calls one."""
        for directory in (self._containerd, self._kubelet, self.directory / "cdi", self.prepared):
            directory.mkdir()
        self._keep_kernel()
        self._make_cgroups()
        self._write_containerd_files()
        self.start_containerd()
        for image in images:
            self.load(image)
        self._load_pause()
        self.start_kubelet()
        self.start_driver()
        self._await(self.is_ready, "the node is not ready")

    def start_containerd(self) -> None:
        self.place.start("containerd", ["containerd", "--config", self._containerd / "config.toml"])
        self._await(self._ctr_answers, "containerd does not answer")

    def load(self, image: str) -> None:
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as source:
            load = self._ctr("images", "import", "-")
            subprocess.run(load, stdin=source.stdout, stdout=subprocess.DEVNULL, check=True)
        name = f"docker.io/library/{image}:latest"
        self.place.run(self._ctr("images", "tag", name, f"docker.io/library/{image_of(image)}"))

    def _load_pause(self) -> None:
        """Make the image from files of that of the sessions: a hundredth of its size."""
        image = own.name(_PAUSE)
        run = ["docker", "run", "--rm", "--network=none", "--entrypoint=sh", "--user=0", "gpu-workspace"]
        with subprocess.Popen([*run, "-c", _PAUSE_ALONE], stdout=subprocess.PIPE) as source:
            make = ["docker", "import", "--change", 'ENTRYPOINT ["/pause"]', "-", f"{image}:latest"]
            subprocess.run(make, stdin=source.stdout, check=True, capture_output=True)
        try:
            self.load(image)
        finally:
            subprocess.run(["docker", "image", "rm", image], check=True, capture_output=True)

    def execute(self, pod: str, *command: str, namespace: str = "default") -> str:
        """Run a command in the one container of a pod."""
        name, container = f"tests-{time.monotonic_ns()}", self._container(pod, namespace)
        return self.place.run(self._ctr("tasks", "exec", "--exec-id", name, container, *command))

    def kill(self, pod: str, namespace: str) -> None:
        """Kill the one container of a pod, as the kernel does when memory is short."""
        self.place.run(self._ctr("tasks", "kill", "--signal=KILL", self._container(pod, namespace)))

    def _container(self, pod: str, namespace: str) -> str:
        found = self.plane.api().get("v1/pods", pod, namespace) or {}
        return str(found["status"]["containerStatuses"][0]["containerID"]).removeprefix("containerd://")

    def start_kubelet(self) -> None:
        found = programs.find("kubelet")
        assert found, "no kubelet here: python -m tests.fleet.programs builds it"
        configuration = self._kubelet / "config.json"
        configuration.write_text(json.dumps(self._configuration()))
        command: list[str | Path] = [
            found,
            f"--config={configuration}",
            f"--kubeconfig={self.plane.kubeconfig_of_kubelet(self.name)}",
        ]
        command += [f"--root-dir={self._kubelet}", f"--hostname-override={self.name}"]
        self.place.start("kubelet", [*command, f"--node-ip={self.place.address}"])

    def start_driver(self) -> None:
        module: list[str | Path] = [sys.executable, "-m", "tests.fleet.dra_driver", self.directory]
        module += [self.plane.kubeconfig_of_kubelet(self.name), self.name]
        self.place.start("dra-driver", [*module, *self.kinds], PYTHONPATH=str(REPOSITORY))

    def _keep_kernel(self) -> None:
        for name, value in _KERNEL.items():
            file = self.directory / name.replace("/", "_")
            file.write_text(f"{value}\n")
            self.place.run(["mount", "--bind", file, f"/proc/sys/{name}"])

    def _make_cgroups(self) -> None:
        for controller in _controllers():
            directory = controller / _cgroup_of(self.name)
            directory.mkdir()
            for name in ("cpuset.cpus", "cpuset.mems"):
                if (directory / name).exists():
                    (directory / name).write_text((controller / name).read_text())

    def _configuration(self) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{_cgroup_of(self.name)}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "protectKernelDefaults": True,
            "makeIPTablesUtilChains": False,
            "podLogsDir": str(self.directory / "pods"),
            "volumePluginDir": str(self.directory / "volume-plugins"),
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"imagefs.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%"},
            "syncFrequency": "5s",
            "registerWithTaints": [],
            "nodeStatusUpdateFrequency": "5s",
            "localStorageCapacityIsolation": False,
        }

    @property
    def _socket(self) -> Path:
        return self._containerd / "socket"

    def _write_containerd_files(self) -> None:
        networks = self._containerd / "cni"
        networks.mkdir(exist_ok=True)
        addresses = {
            "type": "host-local",
            "dataDir": str(self._containerd / "addresses"),
            "ranges": [[{"subnet": self.place.pods}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "ipam": addresses}
        network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge, _WITHOUT_IPV6]}
        (networks / "pods.conflist").write_text(json.dumps(network))
        (self._containerd / "config.toml").write_text(
            f"""
version = 2
root = "{self._containerd}/root"
state = "{self._containerd}/state"
[grpc]
address = "{self._socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "docker.io/library/{image_of(own.name(_PAUSE))}"
enable_cdi = true
cdi_spec_dirs = ["{self.directory}/cdi"]
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI}"
conf_dir = "{networks}"
"""
        )

    def _ctr(self, *arguments: str) -> list[str]:
        return ["ctr", "--address", str(self._socket), "--namespace", "k8s.io", *arguments]

    def _ctr_answers(self) -> bool:
        return not subprocess.run(self._ctr("version"), capture_output=True).returncode

    def is_ready(self) -> bool:
        node = self.plane.api().get("v1/nodes", self.name)
        conditions = (node or {}).get("status", {}).get("conditions", [])
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
        slices = self.plane.api().list("resource.k8s.io/v1/resourceslices")
        return ready and any(each["spec"].get("nodeName") == self.name for each in slices)

    def _await(self, condition: Callable[[], object], problem: str) -> None:
        deadline = time.monotonic() + _SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{problem}:\n{self.place.logs()}"
            time.sleep(0.1)


@contextmanager
def real_node(*images: str, name: str = NODES[0]) -> Iterator[Node]:
    """A control plane with this one node, in the same place. Nodes that one process has at the same time need
    different names."""
    with _cgroups(name), control_plane() as plane:
        _add_homes(plane)
        node = Node(plane, name, plane.place)
        node.start(images)
        yield node


@contextmanager
def another_node(first: Node, *images: str) -> Iterator[Node]:
    """A second node of the same cluster, in a place of its own."""
    with _cgroups(NODES[1]), a_place() as place:
        place.join(first.place)
        node = Node(first.plane, NODES[1], place)
        node.start(images)
        yield node


def kernel() -> dict[str, str]:
    """The parameters of the machine's kernel that a node sets or wants."""
    names = (*_KERNEL, "net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet")
    return {name: Path("/proc/sys", name).read_text() for name in names}


def image_of(name: str) -> str:
    """A kubelet would ask a registry for the newest image of a name without a tag."""
    return f"{name}:node"


_STORAGE: Object = {
    "metadata": {"name": STORAGE_CLASS},
    "provisioner": "kubernetes.io/no-provisioner",
    "volumeBindingMode": "WaitForFirstConsumer",
}


def _home(name: str, directory: Path) -> Object:
    term = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [*NODES]}]}
    return {
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Ti"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": str(directory)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}},
        },
    }


def _add_homes(plane: ControlPlane) -> None:
    """Directories of the machine, in place of storage: their files get the group of their session."""
    api = plane.api()
    api.create("storage.k8s.io/v1/storageclasses", _STORAGE)
    for number in range(_HOMES):
        directory = plane.directory / "homes" / str(number)
        directory.mkdir(parents=True)
        api.create("v1/persistentvolumes", _home(f"home-{number}", directory))


@contextmanager
def _cgroups(node: str) -> Iterator[None]:
    """Programs and containers end with their place. Only their groups are the machine's, and removed here."""
    cgroup = _cgroup_of(node)
    _remove_cgroups(cgroup)  # of a run that was killed
    try:
        yield
    finally:
        _remove_cgroups(cgroup)


def _cgroup_of(node: str) -> str:
    return f"{own.name('fleet')}-{node}"


def _controllers() -> list[Path]:
    """One hierarchy, or one for each controller of version 1."""
    if (_CGROUPS / "cgroup.procs").exists():
        return [_CGROUPS]
    return [path for path in sorted(_CGROUPS.iterdir()) if path.is_dir() and not path.is_symlink()]


def _remove_cgroups(name: str) -> None:
    for controller in _controllers():
        for directory, _, _ in os.walk(controller / name, topdown=False):
            _remove_group(Path(directory))


def _remove_group(directory: Path) -> None:
    """The kernel needs a moment after the last process has ended."""
    deadline = time.monotonic() + _SECONDS
    while directory.exists():
        try:
            directory.rmdir()
        except OSError:
            assert time.monotonic() < deadline, f"{directory} still has processes"
            time.sleep(0.05)
