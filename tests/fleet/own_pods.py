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

from tests.fleet import programs
from tests.fleet.api import Api, Object
from tests.fleet.control_plane import NODE
from tests.fleet.gateways import IMAGE, ROUTES, SECONDS, SESSIONS
from tests.fleet.node import STORAGE_CLASS, Node, image_of
from tests.paths import REPOSITORY
from tests.postgresql import PostgresServer
from tests.whole_gateway import eventually, free_port

GATEWAYS = "gpu-gateway"
OWN_IMAGE = "gpu-ssh-gateway"
_MANIFESTS = REPOSITORY / "docker/kubernetes"
_NAME = "gateway.gpu-gateway.svc"
_WAIT = ("wait", "--timeout=180s", "--namespace")
_SETTINGS = {
    "GATEWAY_STORAGE_CLASS": STORAGE_CLASS,
    "GATEWAY_IMAGE": image_of(IMAGE),
    "GATEWAY_SSH_HOST": "ssh.gpu-routes",
}


@dataclass
class OwnPods:
    node: Node
    directory: Path
    token: str = ""

    @property
    def api(self) -> Api:
        return self.node.plane.api()

    def service(self, namespace: str, name: str) -> str:
        """The address of a Service."""
        found = self.api.get("v1/services", name, namespace) or {}
        return str(found["spec"]["clusterIP"])

    def kubectl(self, *arguments: str) -> str:
        return self.node.plane.kubectl(*arguments)

    def in_gateway(self, *command: str) -> str:
        return self.kubectl("--namespace", GATEWAYS, "exec", "deploy/gateway", "--", *command)

    def ask(self, method: str, path: str, **body: Any) -> tuple[int, Any]:
        """By the Service of the gateway. Return the status and the answer."""
        command = [
            "curl",
            "--silent",
            "--max-time",
            "90",
            "--request",
            method,
            "--write-out",
            "\n%{http_code}",
        ]
        command += ["--header", f"Authorization: Bearer {self.token}"]
        command += ["--resolve", f"{_NAME}:80:{self.service(GATEWAYS, 'gateway')}"]  # there is no DNS here
        if body:
            command += ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        text, _, status = self.node.plane.place.run([*command, f"http://{_NAME}{path}"]).rpartition("\n")
        return int(status), json.loads(text) if text else None

    def open(self, user: str, profile: str) -> dict[str, Any]:
        """With a key that the gateway makes, for `ssh`."""
        status, made = self.ask("POST", "/sessions", user_id=user, mig_profile=profile)
        assert status == 201, made
        key = self.directory / f"{user}.key"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_text(made["ssh_private_key"])
        _, _, host_key = made["ssh_known_hosts"].partition(" ")
        (self.directory / "known_hosts").write_text(f"{self.service(ROUTES, 'ssh')} {host_key}\n")
        return dict(made)

    def ssh(self, user: str, *command: str) -> list[str]:
        """A login by the Service of the routers, in the place of the cluster."""
        return [
            *("ssh", "-F", "none", "-i", str(self.directory / f"{user}.key"), "-o", "IdentitiesOnly=yes"),
            *("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "StrictHostKeyChecking=yes"),
            *("-o", f"UserKnownHostsFile={self.directory / 'known_hosts'}"),
            f"{user}@{self.service(ROUTES, 'ssh')}",
            *command,
        ]

    def in_session(self, user: str, command: str) -> str:
        return self.node.plane.place.run(self.ssh(user, command))

    def apply(self, overlay: str) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(self.directory / overlay))

    def until_ready(self) -> None:
        self.kubectl(*_WAIT, GATEWAYS, "--for=condition=Available", "deployment/gateway")
        self.kubectl(*_WAIT, ROUTES, "--for=condition=Available", "deployment/router")

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
    """The pods, once they are ready. The namespaces are removed in the end."""
    place = node.plane.place
    subprocess.run([REPOSITORY / "docker/build-images", "gateway"], check=True, stdout=subprocess.DEVNULL)
    node.load(OWN_IMAGE)
    place.start("kube-proxy", _kube_proxy(node))
    server = PostgresServer(place.host, free_port())
    made = OwnPods(node, directory)
    try:
        _write_overlay(directory / "overlay", "overlays/simulated")
        _write_overlay(directory / "first-token", "first-token")
        _add_secrets(made, server)
        made.apply("overlay")
        made.kubectl(*_WAIT, GATEWAYS, "--for=condition=Complete", "job/migrate")
        made.apply("first-token")
        made.kubectl(*_WAIT, GATEWAYS, "--for=condition=Complete", "job/first-token")
        made.token = made.kubectl("--namespace", GATEWAYS, "logs", "job/first-token").strip()
        made.until_ready()
        yield made
    finally:
        place.stop("kube-proxy")
        place.run([*_kube_proxy(node), "--cleanup"])
        for namespace in (SESSIONS, ROUTES, GATEWAYS):
            node.plane.api().delete("v1/namespaces", namespace)
        server.end()


def _kube_proxy(node: Node) -> list[str | Path]:
    """Limits of connections are the machine's, so it leaves them alone."""
    found = programs.find("kube-proxy")
    assert found, "no kube-proxy here: python -m tests.fleet.programs builds it"
    unchanged = [f"--conntrack-{name}=0" for name in ("max-per-core", "min", "tcp-timeout-established")]
    unchanged += ["--conntrack-tcp-timeout-close-wait=0"]
    return [
        found,
        f"--kubeconfig={node.plane.kubeconfig}",
        f"--hostname-override={NODE}",
        f"--cluster-cidr={node.plane.place.pods}",
        "--proxy-mode=iptables",
        *unchanged,
    ]


def _write_overlay(directory: Path, base: str) -> None:
    """The manifests in `base`, with the images and the storage of the node."""
    directory.mkdir()
    content: Object = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(_MANIFESTS / base, directory.resolve())],
        "images": [{"name": OWN_IMAGE, "newTag": image_of(OWN_IMAGE).rpartition(":")[2]}],
    }
    if base.startswith("overlays"):
        settings = [f"{name}={text}" for name, text in _SETTINGS.items()]
        of_gateway = {"namespace": GATEWAYS, "behavior": "merge"}
        images = {"namespace": GATEWAYS, "behavior": "replace", "options": {"disableNameSuffixHash": True}}
        content["configMapGenerator"] = [
            {"name": "gateway-settings", **of_gateway, "literals": settings},
            {"name": "session-images", **images, "literals": [f"images={image_of(IMAGE)}"]},
        ]
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
