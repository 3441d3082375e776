"""A cluster whose gateway and router are pods of the manifests, as `docs/fleet.md` describes it.

Only the database runs beside it. kube-proxy makes the Services work.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.fleet import programs
from tests.fleet.api import Api, Object
from tests.fleet.gateways import IMAGE, ROUTES, SECONDS, SESSIONS
from tests.fleet.node import STORAGE_CLASS, Node, image_of
from tests.paths import REPOSITORY
from tests.postgresql import PostgresServer
from tests.whole_gateway import eventually, free_port

GATEWAYS = "gpu-gateway"
OWN_IMAGE, PROXY_IMAGE = "gpu-ssh-gateway", "gpu-egress-proxy"
EGRESS = "gpu-egress"
_MANIFESTS = REPOSITORY / "docker/kubernetes"
_API_PORT, _SSH_PORT = 30080, 30022  # of the node, for the Services
_DEPLOYMENTS = ((GATEWAYS, "gateway"), (ROUTES, "router"))
_ALIASES = "/spec/template/spec/hostAliases"
_WAIT = ("wait", "--timeout=180s", "--namespace")
_ON_PORTS_OF_THE_NODE = (
    ("gateway", [("/spec/type", "NodePort"), ("/spec/ports/0/nodePort", _API_PORT)]),
    ("ssh", [("/spec/ports/0/nodePort", _SSH_PORT)]),
)


@dataclass
class OwnPods:
    node: Node
    directory: Path
    token: str = ""

    @property
    def api(self) -> Api:
        return self.node.plane.api()

    def url_of(self, pod: str) -> str:
        """Where one pod of the gateway listens."""
        found = self.api.get("v1/pods", pod, GATEWAYS) or {}
        return f"http://{found['status']['podIP']}:8080"

    def kubectl(self, *arguments: str) -> str:
        return self.node.plane.kubectl(*arguments)

    def in_gateway(self, *command: str) -> str:
        return self.kubectl("--namespace", GATEWAYS, "exec", "deploy/gateway", "--", *command)

    @property
    def url(self) -> str:
        """The Service of the gateway, on a port of the node."""
        return f"http://{self.node.plane.place.address}:{_API_PORT}"

    def ask(self, method: str, path: str, url: str = "", **body: Any) -> tuple[int, Any]:
        """By the Service of the gateway, or at the URL of one of its pods. Return the status and the
        answer."""
        headers = {"Authorization": f"Bearer {self.token}", "Host": "gateway.gpu-gateway.svc"}
        answer = requests.request(
            method, f"{url or self.url}{path}", json=body or None, headers=headers, timeout=90
        )
        return answer.status_code, answer.json() if answer.content else None

    def open(self, user: str, profile: str, url: str = "") -> dict[str, Any]:
        """With a key that the gateway makes, for `ssh`."""
        status, made = self.ask("POST", "/sessions", url, user_id=user, mig_profile=profile)
        assert status == 201, made
        key = self.directory / f"{user}.key"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_text(made["ssh_private_key"])
        (self.directory / "known_hosts").write_text(f"{made['ssh_known_hosts']}\n")
        return dict(made)

    def ssh(self, user: str, *command: str) -> list[str]:
        """A login by the Service of the routers, on a port of the node."""
        return [
            *("ssh", "-F", "none", "-i", str(self.directory / f"{user}.key"), "-o", "IdentitiesOnly=yes"),
            *("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "StrictHostKeyChecking=yes"),
            *("-o", f"UserKnownHostsFile={self.directory / 'known_hosts'}"),
            *("-p", str(_SSH_PORT), f"{user}@{self.node.plane.place.address}"),
            *command,
        ]

    def in_session(self, user: str, command: str) -> str:
        done = subprocess.run(self.ssh(user, command), capture_output=True, text=True, timeout=SECONDS)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, overlay: str) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(self.directory / overlay))

    def open_outside(self, name: str, port: int) -> None:
        """Deploy the egress proxy. Sessions that begin afterwards reach `name`, which is this machine."""
        host = self.node.plane.place.host
        _build("egress-proxy")
        self.node.load(PROXY_IMAGE)
        _write_egress(self.directory, host, name, port)
        self.kubectl(*_WAIT, GATEWAYS, "--for=delete", "job/migrate")  # it has other settings
        self.apply("egress")
        self._until_rolled_out(EGRESS, "egress-proxy")
        self._until_rolled_out(GATEWAYS, "gateway")
        eventually(lambda: not self._ending(GATEWAYS), SECONDS)  # the old one still takes requests

    def _ending(self, namespace: str) -> list[str]:
        found = self.api.list("v1/pods", namespace)
        return [each["metadata"]["name"] for each in found if "deletionTimestamp" in each["metadata"]]

    def scale(self, count: int) -> None:
        """So many gateways and routers, once they are ready."""
        for namespace, name in _DEPLOYMENTS:
            self.kubectl("--namespace", namespace, "scale", f"--replicas={count}", f"deployment/{name}")
            self._until_rolled_out(namespace, name)

    def replace(self, namespace: str, name: str) -> None:
        """Replace the pods of a Deployment by new ones, and wait until the new ones are ready."""
        self.kubectl("--namespace", namespace, "rollout", "restart", f"deployment/{name}")
        self._until_rolled_out(namespace, name)

    def _until_rolled_out(self, namespace: str, name: str) -> None:
        self.kubectl("--namespace", namespace, "rollout", "status", f"deployment/{name}", "--timeout=180s")

    def names(self, namespace: str, role: str) -> list[str]:
        """The pods of a role that run and are not ending."""
        return [
            found["metadata"]["name"]
            for found in self.api.list("v1/pods", namespace)
            if found["metadata"].get("labels", {}).get("gpu-ssh-gateway.io/role") == role
            and found["status"]["phase"] == "Running"
            and "deletionTimestamp" not in found["metadata"]
        ]

    def until_ready(self) -> None:
        for namespace, name in _DEPLOYMENTS:
            self._until_rolled_out(namespace, name)

    def objects(self, session_id: str) -> list[str]:
        """What there is of the session, as KIND/NAME."""
        places = (
            ("v1/pods", SESSIONS),
            ("v1/secrets", SESSIONS),
            ("resource.k8s.io/v1/resourceclaims", SESSIONS),
            ("sshpiper.com/v1beta1/pipes", ROUTES),
            ("v1/secrets", ROUTES),
        )
        return [
            f"{collection}/{found['metadata']['name']}"
            for collection, namespace in places
            for found in self.api.list(collection, namespace)
            if session_id in found["metadata"]["name"]
        ]


@contextmanager
def own_pods(node: Node, directory: Path) -> Iterator[OwnPods]:
    """The pods, once they are ready. They end with the node, which is for them alone."""
    place = node.plane.place
    _build("gateway")
    node.load(OWN_IMAGE)
    place.start("kube-proxy", _kube_proxy(node))
    server = PostgresServer(place.host, free_port())
    made = OwnPods(node, directory)
    try:
        _write_overlay(directory / "overlay", place.address)
        _write_kustomization(directory / "first-token", "first-token")
        _add_secrets(made, server)
        made.apply("overlay")
        made.kubectl(*_WAIT, GATEWAYS, "--for=condition=Complete", "job/migrate")
        made.apply("first-token")
        made.kubectl(*_WAIT, GATEWAYS, "--for=condition=Complete", "job/first-token")
        made.token = made.kubectl("--namespace", GATEWAYS, "logs", "job/first-token").strip()
        made.until_ready()
        yield made
    finally:
        server.end()


def _build(image: str) -> None:
    subprocess.run([REPOSITORY / "docker/build-images", image], check=True, stdout=subprocess.DEVNULL)


def _kube_proxy(node: Node) -> list[str | Path]:
    """Limits of connections are the machine's, so it leaves them alone."""
    found = programs.find("kube-proxy")
    assert found, "no kube-proxy here: python -m tests.fleet.programs builds it"
    unchanged = [f"--conntrack-{name}=0" for name in ("max-per-core", "min", "tcp-timeout-established")]
    unchanged += ["--conntrack-tcp-timeout-close-wait=0"]
    return [
        found,
        f"--kubeconfig={node.plane.kubeconfig}",
        f"--hostname-override={node.name}",
        f"--cluster-cidr={node.plane.place.pods}",
        "--proxy-mode=iptables",
        *unchanged,
    ]


def _write_overlay(directory: Path, address: str) -> None:
    """The small overlay, with the storage of the node and with Services at its address."""
    settings = {
        "GATEWAY_STORAGE_CLASS": STORAGE_CLASS,
        "GATEWAY_IMAGE": image_of(IMAGE),
        "GATEWAY_PUBLIC_URL": f"http://{address}:{_API_PORT}",
        "GATEWAY_SSH_HOST": address,
        "GATEWAY_SSH_PORT": str(_SSH_PORT),
    }
    literals = [f"{name}={text}" for name, text in settings.items()]
    images = {"namespace": GATEWAYS, "behavior": "replace", "options": {"disableNameSuffixHash": True}}
    _write_kustomization(
        directory,
        "overlays/simulated",
        configMapGenerator=[
            {"name": "gateway-settings", "namespace": GATEWAYS, "behavior": "merge", "literals": literals},
            {"name": "session-images", **images, "literals": [f"images={image_of(IMAGE)}"]},
        ],
        patches=[
            {
                "target": {"kind": "Service", "name": name},
                "patch": json.dumps([{"op": "add", "path": path, "value": value} for path, value in changes]),
            }
            for name, changes in _ON_PORTS_OF_THE_NODE
        ],
    )


def _write_egress(directory: Path, address: str, name: str, port: int) -> None:
    """The overlay with the component for egress. `name` is no name of a resolver."""
    component = os.path.relpath(_MANIFESTS / "components/egress", directory.resolve() / "with-proxy")
    _write_kustomization(directory / "with-proxy", directory / "overlay", components=[component])
    literals = [f"GATEWAY_EGRESS_HOSTS={name}:{port}", f"GATEWAY_EGRESS_PRIVATE_SUBNETS={address}/32"]
    places = {"gateway-settings": GATEWAYS, "egress-settings": EGRESS}
    known = [{"op": "add", "path": _ALIASES, "value": [{"ip": address, "hostnames": [name]}]}]
    _write_kustomization(
        directory / "egress",
        directory / "with-proxy",
        configMapGenerator=[
            {"name": settings, "namespace": namespace, "behavior": "merge", "literals": literals}
            for settings, namespace in places.items()
        ],
        patches=[{"target": {"kind": "Deployment", "name": "egress-proxy"}, "patch": json.dumps(known)}],
    )


def _write_kustomization(directory: Path, base: str | Path, **more: object) -> None:
    """The manifests in `base`, with the images of the node."""
    directory.mkdir()
    content: Object = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(_MANIFESTS / base, directory.resolve())],
        "images": [
            {"name": name, "newTag": image_of(name).rpartition(":")[2]} for name in (OWN_IMAGE, PROXY_IMAGE)
        ],
        **more,
    }
    (directory / "kustomization.yaml").write_text(json.dumps(content))


def _add_secrets(made: OwnPods, server: PostgresServer) -> None:
    """The two that are not in the manifests, and the namespaces for them."""
    made.kubectl("apply", "--server-side", "-f", str(_MANIFESTS / "base/namespaces.yaml"))
    database = server.network_url(server.create().partition("@/")[2].partition("?")[0])
    key = made.directory / "ssh_host_ed25519_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], check=True)
    make = ("create", "secret", "generic")
    made.kubectl("-n", GATEWAYS, *make, "gateway-database", f"--from-literal=GATEWAY_DB={database}")
    made.kubectl("-n", ROUTES, *make, "router-host-keys", f"--from-file={key}")
    made.kubectl("-n", GATEWAYS, "create", "configmap", "router-host-key", f"--from-file={key}.pub")
    eventually(lambda: made.api.get("v1/serviceaccounts", "default", ROUTES), SECONDS)
