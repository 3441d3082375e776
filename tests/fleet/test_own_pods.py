"""The manifests' own pods: the migration, the gateway and the router run in the cluster, behind Services."""

import subprocess
from collections.abc import Iterator

import pytest

from tests import own
from tests.fleet.gateways import SECONDS
from tests.fleet.node import Node
from tests.fleet.own_pods import GATEWAYS, OwnPods, own_pods
from tests.whole_gateway import eventually

ANN, BOB = own.user("ann"), own.user("bob")


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
    end = pods.node.plane.place.inside(pods.ssh(ANN, "lease end --yes"))
    ended = subprocess.run(end, capture_output=True)
    assert b"you ended it" in ended.stderr
    eventually(lambda: not pods.objects(made["session_id"]), SECONDS)


def test_the_doctor_finds_all_places_in_agreement(pods: OwnPods) -> None:
    made = pods.open(BOB, "1g.5gb")
    assert "All places agree, 1 session" in pods.in_gateway("gateway", "doctor")
    assert pods.ask("DELETE", f"/sessions/{made['session_id']}")[0] == 204


def test_a_new_gateway_pod_takes_over_while_sessions_go_on(pods: OwnPods) -> None:
    made = pods.open(ANN, "1g.5gb")
    command = pods.node.plane.place.inside(pods.ssh(ANN, "sleep 20; echo still there"))
    login = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pods.kubectl("-n", GATEWAYS, "rollout", "restart", "deployment/gateway")
    pods.kubectl("-n", GATEWAYS, "rollout", "status", "deployment/gateway", "--timeout=180s")
    assert login.communicate(timeout=60)[0] == "still there\n"
    assert pods.ask("GET", f"/sessions/{made['session_id']}")[1]["status"] == "active"
    assert pods.ask("DELETE", f"/sessions/{made['session_id']}")[0] == 204
