"""What a session reaches, and who reaches it, where kube-router enforces the manifests' network policies."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import own
from tests.fleet import programs
from tests.fleet.api import Api, Object
from tests.fleet.claims import PODS
from tests.fleet.control_plane import SERVICES
from tests.fleet.gateways import IMAGE, ROUTES, SECONDS, SESSIONS, Replica, gateway_before
from tests.fleet.manifests import MANIFESTS
from tests.fleet.node import Node, image_of
from tests.whole_gateway import eventually

ANN, BOB = own.user("ann"), own.user("bob")
POLICIES = "networking.k8s.io/v1/networkpolicies"
ROLE = "gpu-ssh-gateway.io/role"
GATEWAYS, EGRESS = "gpu-gateway", "gpu-egress"
EGRESS_POLICIES = MANIFESTS / "components/egress/network-policies.yaml"
API_SERVER = "10.96.0.1"
LISTENS = "from http.server import *; HTTPServer(('', {port}), SimpleHTTPRequestHandler).serve_forever()"
_OPENS = "timeout 5 bash -c '</dev/tcp/{address}/{port}' && echo open"


@dataclass
class Fenced:
    """A cluster in which the sessions of Ann and Bob live, and pods with the labels of the routers, of the
    gateway and of nothing."""

    node: Node
    gateway: Replica

    @property
    def api(self) -> Api:
        return self.node.plane.api()

    def address(self, namespace: str, name: str) -> str:
        pod = self.api.get(PODS, name, namespace) or {}
        return str(pod["status"]["podIP"])

    def session_of(self, user: str) -> str:
        [session] = self.gateway.get(f"/sessions?user_id={user}")["sessions"]
        return self.address(SESSIONS, f"s-{session['session_id']}")

    def reaches(self, user: str, address: str, port: int) -> bool:
        """From the user's session."""
        done = subprocess.run(
            self.gateway.ssh(user, _OPENS.format(address=address, port=port)),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode != 255, f"ssh does not get in: {done.stderr}"
        return done.stdout == "open\n"

    def reached_by(self, namespace: str, name: str, address: str, port: int) -> bool:
        """From a pod that is no session."""
        done = self.node.execute(
            name,
            *("sh", "-c", f"{_OPENS.format(address=address, port=port)} || echo closed"),
            namespace=namespace,
        )
        return "open" in done

    def attacked(self) -> dict[str, tuple[str, str]]:
        """What `gateway doctor --attack` says of each attempt: the verdict, and why."""
        done = self.gateway.run("doctor", "--attack", "--json", KUBERNETES_SERVICE_HOST=API_SERVER)
        assert done.stdout, done.stderr
        attempts = json.loads(done.stdout)["attempts"]
        return {one["name"]: (one["outcome"]["verdict"], one["outcome"]["why"]) for one in attempts}

    def add_pod(self, namespace: str, name: str, labels: dict[str, str], port: int) -> None:
        self.api.create(PODS, _pod(namespace, name, labels, port))
        eventually(lambda: self._is_running(namespace, name), SECONDS)

    def _is_running(self, namespace: str, name: str) -> bool:
        status = (self.api.get(PODS, name, namespace) or {}).get("status") or {}
        return status.get("phase") == "Running" and bool(status.get("podIP"))


_PODS: tuple[tuple[str, str, dict[str, str], int], ...] = (
    (ROUTES, "router", {ROLE: "router"}, 2022),
    (ROUTES, "stranger", {"app": "stranger"}, 8080),
    (GATEWAYS, "gateway", {ROLE: "gateway"}, 8080),
    (GATEWAYS, "stranger", {"app": "stranger"}, 8080),
    (EGRESS, "egress-proxy", {ROLE: "egress-proxy"}, 3128),
    (EGRESS, "stranger", {"app": "stranger"}, 3128),
)


def _pod(namespace: str, name: str, labels: dict[str, str], port: int) -> Object:
    container = {
        "name": "listens",
        "image": image_of(IMAGE),
        "command": ["python3", "-c", LISTENS.format(port=port)],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 64022, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "containers": [container],
            "securityContext": security,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
        },
    }


@pytest.fixture(scope="module")
def fenced(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fenced]:
    place = node.plane.place
    with gateway_before(node, tmp_path_factory.mktemp("fenced")) as gateway:
        # The tests' gateway and router are outside of the cluster.
        admitted = _admit(f"{place.host}/32")
        node.plane.api().create(POLICIES, admitted)
        node.plane.api().create("v1/namespaces", {"metadata": {"name": EGRESS}})
        node.plane.kubectl("apply", "--server-side", "-f", EGRESS_POLICIES)
        place.start("kube-router", _kube_router(node))
        made = Fenced(node, gateway)
        for user in (ANN, BOB):
            gateway.create(user, mig_profile="1g.5gb")
        for namespace, name, labels, port in _PODS:
            made.add_pod(namespace, name, labels, port)
        eventually(lambda: not made.reaches(ANN, made.session_of(BOB), 2222), SECONDS)
        yield made
        for session in gateway.get("/sessions")["sessions"]:
            gateway.delete(session["session_id"])
        for namespace, name, *_ in _PODS:
            node.plane.api().delete(PODS, name, namespace)
    place.stop("kube-router")
    place.run(["iptables", "--flush"])  # its own clean-up fails in a kernel without IPVS
    node.plane.api().delete(POLICIES, "tests", SESSIONS)
    node.plane.api().delete(POLICIES, "egress", SESSIONS)
    node.plane.api().delete("v1/namespaces", EGRESS)


def _kube_router(node: Node) -> list[str | Path]:
    found = programs.find("kube-router")
    assert found, "no kube-router here: python -m tests.fleet.programs builds it"
    return [
        found,
        "--run-firewall=true",
        "--run-router=false",
        "--run-service-proxy=false",
        "--enable-cni=false",
        f"--kubeconfig={node.plane.kubeconfig}",
        f"--hostname-override={node.name}",
        f"--service-cluster-ip-range={SERVICES}",
        "--health-port=0",
    ]


def _admit(network: str) -> Object:
    source: dict[str, Any] = {
        "from": [{"ipBlock": {"cidr": network}}],
        "ports": [{"protocol": "TCP", "port": 2222}],
    }
    return {
        "metadata": {"name": "tests", "namespace": SESSIONS},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [source]},
    }


def test_a_user_still_gets_in(fenced: Fenced) -> None:
    assert fenced.gateway.in_session(ANN, "echo works") == "works\n"
    assert fenced.reaches(ANN, "127.0.0.1", 2222)


def test_a_session_does_not_reach_another_one(fenced: Fenced) -> None:
    assert not fenced.reaches(ANN, fenced.session_of(BOB), 2222)
    assert not fenced.reaches(BOB, fenced.session_of(ANN), 2222)


def test_a_session_does_not_reach_the_control_plane_or_its_node(fenced: Fenced) -> None:
    """kube-router closes the way to the own node, too. The rules of Kubernetes let each plugin decide."""
    place = fenced.node.plane.place
    for address, port in ((API_SERVER, 443), (place.address, 6443), (place.address, 10250)):
        assert not fenced.reaches(ANN, address, port), f"{address}:{port} is open"


def test_a_session_reaches_no_other_host(fenced: Fenced) -> None:
    assert not fenced.reaches(ANN, fenced.node.plane.place.host, fenced.gateway.port)


def test_a_session_reaches_the_gateway_for_lease_and_nothing_else_beside_it(fenced: Fenced) -> None:
    assert fenced.reaches(ANN, fenced.address(GATEWAYS, "gateway"), 8080)
    assert not fenced.reaches(ANN, fenced.address(GATEWAYS, "stranger"), 8080)
    assert not fenced.reaches(ANN, fenced.address(ROUTES, "router"), 2022)
    assert not fenced.reaches(ANN, fenced.address(ROUTES, "stranger"), 8080)


def test_the_routers_and_the_gateway_reach_the_sshd_of_a_session_and_nobody_else_does(fenced: Fenced) -> None:
    session = fenced.session_of(ANN)
    assert fenced.reached_by(ROUTES, "router", session, 2222)
    assert fenced.reached_by(GATEWAYS, "gateway", session, 2222)
    assert not fenced.reached_by(ROUTES, "stranger", session, 2222)
    assert not fenced.reached_by(GATEWAYS, "stranger", session, 2222)


def test_sessions_reach_the_egress_proxy_and_nobody_else_does(fenced: Fenced) -> None:
    proxy = fenced.address(EGRESS, "egress-proxy")
    assert fenced.reaches(ANN, proxy, 3128)
    assert not fenced.reaches(ANN, fenced.address(EGRESS, "stranger"), 3128)
    assert not fenced.reached_by(GATEWAYS, "stranger", proxy, 3128)
    assert not fenced.reached_by(ROUTES, "router", proxy, 3128)


def test_the_egress_proxy_reaches_nothing_of_the_cluster(fenced: Fenced) -> None:
    """Not even a session, although it answers them."""
    place = fenced.node.plane.place
    for address, port in (
        (fenced.session_of(ANN), 2222),
        (fenced.address(GATEWAYS, "gateway"), 8080),
        (API_SERVER, 443),
        (place.address, 10250),
        (place.host, fenced.gateway.port),
    ):
        assert not fenced.reached_by(EGRESS, "egress-proxy", address, port), f"{address}:{port} is open"


def test_no_attack_of_the_doctor_succeeds(fenced: Fenced) -> None:
    attempts = fenced.attacked()
    assert {name: why for name, (verdict, why) in attempts.items() if verdict in ("through", "unclear")} == {}
    assert attempts["another session, TCP"][0] == "stopped"
    assert attempts["the host: API, sshd, router, Docker"][0] == "stopped"
    assert attempts["SSH with another user's key"][0] == "stopped"
    assert attempts["a session with a changed host key"][0] == "stopped"
