"""A control plane of Kubernetes for the tests: etcd, API server, scheduler and controller manager.

    python -m tests.fleet.control_plane

starts one with two fake nodes and keeps it until Ctrl-C.
"""

import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fleet import programs
from tests.fleet.api import Api, Refused
from tests.fleet.nodes import Fakelet, add_device_classes, add_node, gpus_of_a_node
from tests.fleet.place import Place, a_place

ADMIN, SCHEDULER, MANAGER = "admin", "system:kube-scheduler", "system:kube-controller-manager"
NODES = ("node-1", "node-2")  # those that may have a real kubelet
_KUBELETS = {name: f"system:node:{name}" for name in NODES}
_GROUPS = {ADMIN: "system:masters", SCHEDULER: "", MANAGER: ""} | dict.fromkeys(
    _KUBELETS.values(), "system:nodes"
)
_SECONDS = 300  # until all of it answers, on a loaded machine
_PORT = 6443
_DAY = 86400  # seconds
SERVICES = "10.96.0.0/16"


@dataclass
class ControlPlane:
    """A test may stop and start each of its programs. Without `misses_nodes`, nobody minds that nodes do not
    report."""

    place: Place
    misses_nodes: bool = True

    def __post_init__(self) -> None:
        self.url = f"https://{self.place.address}:{_PORT}"
        self._tokens = {name: secrets.token_hex(16) for name in _GROUPS}

    @property
    def directory(self) -> Path:
        return self.place.directory

    @property
    def authority(self) -> Path:
        """The certificate that the API server has made for itself."""
        return self.directory / "apiserver/apiserver.crt"

    @property
    def kubeconfig(self) -> Path:
        """The file of the administrator."""
        return self.directory / ADMIN

    def start(self) -> None:
        self._write_key()
        self.start_etcd()
        self.start_apiserver()
        self.await_ready()
        for name, token in self._tokens.items():
            self._write_kubeconfig(name, token)
        self.start_scheduler()
        self.start_manager()
        self._await("the controller manager", self._has_service_account)

    def await_ready(self) -> None:
        self._await("the API server", self._is_ready)

    def start_etcd(self) -> None:
        url = "http://127.0.0.1:2379"
        options = [f"--data-dir={self.directory}/etcd", f"--listen-client-urls={url}"]
        options += [f"--advertise-client-urls={url}", "--listen-peer-urls=http://127.0.0.1:2380"]
        self._start("etcd", *options, "--unsafe-no-fsync", "--log-level=warn")

    def start_apiserver(self) -> None:
        (self.directory / "tokens").write_text(
            "".join(f'{token},{name},{name},"{_GROUPS[name]}"\n' for name, token in self._tokens.items())
        )
        key = f"{self.directory}/service-accounts.key"
        self._start(
            "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--secure-port={_PORT}",
            f"--advertise-address={self.place.address}",
            f"--cert-dir={self.directory}/apiserver",
            f"--service-cluster-ip-range={SERVICES}",
            f"--token-auth-file={self.directory}/tokens",
            "--authorization-mode=Node,RBAC",
            "--kubelet-preferred-address-types=InternalIP",
            "--enable-admission-plugins=NodeRestriction",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
        )

    def start_scheduler(self) -> None:
        self._start("kube-scheduler", *self._as_client(SCHEDULER))

    def start_manager(self) -> None:
        self._start(
            "kube-controller-manager",
            *self._as_client(MANAGER),
            f"--service-account-private-key-file={self.directory}/service-accounts.key",
            f"--root-ca-file={self.authority}",
            "--use-service-account-credentials",
            # Homes are directories of the place, without a driver of storage.
            "--enable-hostpath-provisioner",
            # A node that is silent for so long is not ready. A kubelet reports every 5 s in these tests.
            f"--node-monitor-grace-period={'20s' if self.misses_nodes else '24h'}",
            # Claims of ended pods are freed at once.
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        )

    def api(self, acting_as: str | None = None) -> Api:
        return Api(self.url, str(self.authority), self._tokens[ADMIN], acting_as)

    def token_of(self, user: str) -> str:
        return self._tokens[user]

    def kubectl(self, *arguments: str | Path) -> str:
        """Return what kubectl prints. Raises an error with its message if it fails."""
        command = [programs.find("kubectl"), "--kubeconfig", self.kubeconfig, *arguments]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=_SECONDS)
        assert done.returncode == 0, f"kubectl {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def kubeconfig_of_kubelet(self, node: str) -> Path:
        """The file of the kubelet of one of `NODES`."""
        return self.directory / _KUBELETS[node]

    def kubeconfig_of(self, account: str, namespace: str) -> Path:
        """Return the file of a service account, whose token lasts a day."""
        file = self.directory / f"{namespace}-{account}"
        if not file.exists():
            review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
            answer = self.api().ask(
                "POST",
                f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
                {**review, "spec": {"expirationSeconds": _DAY}},
            )
            self._write_kubeconfig(file.name, answer["status"]["token"], namespace)
        return file

    def _write_kubeconfig(self, user: str, token: str, namespace: str = "default") -> None:
        file = self.directory / user
        cluster = {"server": self.url, "certificate-authority": str(self.authority)}
        context = {"cluster": "tests", "user": user, "namespace": namespace}
        file.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "tests", "cluster": cluster}],
                    "users": [{"name": user, "user": {"token": token}}],
                    "contexts": [{"name": "tests", "context": context}],
                    "current-context": "tests",
                }
            )
        )
        file.chmod(0o600)

    def _start(self, program: str, *options: str) -> None:
        found = programs.find(program)
        assert found, f"no {program} here: python -m tests.fleet.programs builds it"
        self.place.start(program, [found, *options])

    def _as_client(self, user: str) -> list[str]:
        return [f"--kubeconfig={self.directory / user}", "--leader-elect=false"]

    def _write_key(self) -> None:
        private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
        text = private.private_bytes(*form, serialization.NoEncryption())
        (self.directory / "service-accounts.key").write_bytes(text)

    def _await(self, what: str, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + _SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what} does not answer:\n{self.place.logs()}"
            time.sleep(0.05)

    def _is_ready(self) -> bool:
        try:
            return self.authority.exists() and self.api().get("v1/namespaces", "default") is not None
        except (Refused, OSError, requests.RequestException, ValueError):
            return False

    def _has_service_account(self) -> bool:
        """Pods of the namespace `default` need it."""
        return self.api().get("v1/serviceaccounts", "default", "default") is not None


@contextmanager
def control_plane(*, misses_nodes: bool = True) -> Iterator[ControlPlane]:
    with a_place() as place:
        plane = ControlPlane(place, misses_nodes)
        plane.start()
        yield plane


def main() -> None:
    """Keep a control plane with two fake nodes until Ctrl-C."""
    if missing := programs.missing():
        sys.exit(f"no {', '.join(missing)} here: python -m tests.fleet.programs builds them")
    gpus = gpus_of_a_node(["A100-40GB"] * 8)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with control_plane() as plane, suppress(KeyboardInterrupt), Fakelet(plane.api()):
        add_device_classes(plane.api(), gpus)
        for name in ("fake-1", "fake-2"):
            add_node(plane.api(), name, gpus)
        print(f"export KUBECONFIG={plane.kubeconfig}", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
