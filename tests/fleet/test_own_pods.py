"""The manifests' own pods: the migration, the gateway and the router run in the cluster, behind Services."""

import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests import own
from tests.fleet.control_plane import NODES
from tests.fleet.gateways import IMAGE, ROUTES, SECONDS, SESSIONS
from tests.fleet.node import Node, real_node
from tests.fleet.own_pods import GATEWAYS, OwnPods, own_pods
from tests.whole_gateway import eventually

ANN, BOB, CAT = own.user("ann"), own.user("bob"), own.user("cat")


@pytest.fixture(scope="module")
def node(programs_of_kubernetes: None) -> Iterator[Node]:
    """Not that of the other tests: the manifests' namespaces and accounts are part of theirs."""
    with real_node(IMAGE, name=NODES[1]) as running:
        yield running


@pytest.fixture(scope="module")
def pods(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPods]:
    with own_pods(node, tmp_path_factory.mktemp("own")) as made:
        yield made


def test_a_session_lives_from_post_to_ssh_to_delete(pods: OwnPods, node: Node) -> None:
    made = pods.open(ANN, "3g.20gb")
    inside = eventually(lambda: pods.in_session(ANN, "id -un; nvidia-smi -L"), SECONDS)
    assert inside.splitlines()[0] == ANN
    assert made["gpu_uuid"] in inside
    assert pods.ask("DELETE", f"/sessions/{made['session_id']}")[0] == 204
    eventually(lambda: not pods.objects(made["session_id"]) and not node.slices(), SECONDS)


def test_lease_calls_the_gateway_through_its_service(pods: OwnPods) -> None:
    made = pods.open(ANN, "1g.5gb")
    assert "1g.5gb" in pods.in_session(ANN, "lease")
    pods.in_session(ANN, "lease extend 30m")
    extended = pods.ask("GET", f"/sessions/{made['session_id']}")[1]
    assert extended["expires_at"] > made["expires_at"]
    ended = subprocess.run(pods.ssh(ANN, "lease end --yes"), capture_output=True)
    assert b"you ended it" in ended.stderr
    eventually(lambda: not pods.objects(made["session_id"]), SECONDS)


def test_the_doctor_finds_all_places_in_agreement(pods: OwnPods) -> None:
    made = pods.open(BOB, "1g.5gb")
    assert "All places agree, 1 session" in pods.in_gateway("gateway", "doctor")
    assert pods.ask("DELETE", f"/sessions/{made['session_id']}")[0] == 204


def test_a_session_reaches_the_named_host_through_the_egress_proxy_and_no_other(
    pods: OwnPods, node: Node
) -> None:
    with mirror(node.plane.place.host) as port:
        pods.open_outside("mirror.test", port)
        made = pods.open(CAT, "1g.5gb")
        ask = "curl -s -o /dev/null -w '%{http_code}' "
        assert pods.in_session(CAT, f"{ask} http://mirror.test:{port}/") == "200"
        assert pods.in_session(CAT, f"{ask} http://other.test/") == "403"
        assert pods.in_session(CAT, f"{ask} http://mirror.test:{port + 1}/") == "403"
        assert f"mirror.test:{port} by $http_proxy" in pods.in_session(CAT, "cat /etc/gateway/motd")
        assert "1g.5gb" in pods.in_session(CAT, "lease"), "the gateway is reached without the proxy"
        assert "All places agree" in pods.in_gateway("gateway", "doctor")
        assert pods.ask("DELETE", f"/sessions/{made['session_id']}")[0] == 204


@contextmanager
def mirror(address: str) -> Iterator[int]:
    """A web server at the address of this machine."""
    with ThreadingHTTPServer((address, 0), SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_gateways_are_replaced_while_creates_and_logins_go_on(pods: OwnPods) -> None:
    pods.scale(2)
    made = pods.open(ANN, "1g.5gb")
    login = _login_for(20, ANN, pods)

    def open_and_close() -> None:
        other = pods.open(BOB, "1g.5gb")
        assert pods.ask("DELETE", f"/sessions/{other['session_id']}")[0] == 204

    assert _times_while_replaced(pods, GATEWAYS, "gateway", open_and_close) > 1
    assert login.communicate(timeout=60)[0] == "still there\n"
    assert pods.ask("GET", f"/sessions/{made['session_id']}")[1]["status"] == "active"
    assert pods.ask("DELETE", f"/sessions/{made['session_id']}")[0] == 204


def test_routers_are_replaced_while_logins_go_on_and_begin(pods: OwnPods) -> None:
    pods.scale(2)
    made = pods.open(ANN, "1g.5gb")
    login = _login_for(30, ANN, pods)

    def log_in() -> None:
        assert pods.in_session(ANN, "echo in") == "in\n"

    assert _times_while_replaced(pods, ROUTES, "router", log_in) > 3
    assert login.communicate(timeout=60)[0] == "still there\n"
    assert pods.ask("DELETE", f"/sessions/{made['session_id']}")[0] == 204


def test_what_a_killed_gateway_was_opening_is_removed_while_the_other_one_opens_sessions(
    pods: OwnPods, node: Node
) -> None:
    pods.scale(2)
    victim, other = pods.names(GATEWAYS, "gateway")
    with ThreadPoolExecutor(2) as pool:
        lost = [pool.submit(pods.open, user, "1g.5gb", pods.url_of(victim)) for user in (ANN, BOB)]
        eventually(lambda: len(pods.api.list("v1/pods", SESSIONS)) == len(lost), SECONDS)
        node.kill(victim, GATEWAYS)
    assert all(each.exception() for each in lost), "the gateway answered before it was killed"
    made = pods.open(CAT, "1g.5gb", pods.url_of(other))
    assert CAT in eventually(lambda: pods.in_session(CAT, "id -un"), SECONDS)
    for session in eventually(lambda: _settled(pods), SECONDS):
        assert pods.ask("DELETE", f"/sessions/{session['session_id']}")[0] == 204
    eventually(lambda: not pods.objects("s-") and not node.slices(), SECONDS)
    assert pods.ask("GET", f"/sessions/{made['session_id']}")[0] == 410


def _times_while_replaced(pods: OwnPods, namespace: str, name: str, act: Callable[[], None]) -> int:
    """Act again and again until the pods of the Deployment are replaced, and return how often."""
    with ThreadPoolExecutor(1) as pool:
        replaced, times = pool.submit(pods.replace, namespace, name), 0
        while not replaced.done():
            act()
            times += 1
        replaced.result()
    return times


def _login_for(seconds: int, user: str, pods: OwnPods) -> "subprocess.Popen[str]":
    """A login that is there already."""
    command = pods.ssh(user, f"echo in; sleep {seconds}; echo still there")
    login = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert login.stdout
    assert login.stdout.readline() == "in\n"
    return login


def _settled(pods: OwnPods) -> list[dict[str, Any]]:
    """The sessions, once none of them begins or ends."""
    sessions: list[dict[str, Any]] = pods.ask("GET", "/sessions")[1]["sessions"]
    return sessions if all(each["status"] == "active" for each in sessions) else []
