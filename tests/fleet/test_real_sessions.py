"""Sessions on a real node, from POST to ssh and back again; the parts of the cluster are killed in turn.

The gateways are processes outside of the cluster, with the rights of the manifests' accounts. The user's ssh
goes through the embedded router, whose routes `gateway mirror-pipes` writes.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway import failpoints
from gateway.database_url import DatabaseUrl
from gateway.repositories.sql import schema
from tests import own
from tests.fleet.gateways import PIPES, ROUTES, SECONDS, SESSIONS, Replica, prepare, replica
from tests.fleet.node import Node
from tests.postgresql import PostgresServer
from tests.whole_gateway import eventually

ANN, BOB = own.user("ann"), own.user("bob")


@pytest.fixture(scope="module")
def fleet(
    node: Node, postgresql: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Replica]:
    """One replica that serves, with its routers."""
    directory, url = tmp_path_factory.mktemp("fleet"), postgresql.create()
    schema.upgrade(DatabaseUrl(url))
    prepare(node.plane)
    first = replica(node, postgresql, url, directory / "first")
    first.start_routers()
    first.serve()
    yield first
    for name in list(first.processes):
        first.kill(name)


@pytest.fixture
def session(fleet: Replica) -> Iterator[dict[str, Any]]:
    """Of Ann's."""
    made = fleet.create(ANN, mig_profile="3g.20gb")
    yield made
    fleet.delete(made["session_id"])
    eventually(lambda: not fleet.leftovers(made["session_id"]), SECONDS)


def is_gone(fleet: Replica, node: Node, session_id: str) -> bool:
    return not fleet.leftovers(session_id) and not node.slices()


def recorded(fleet: Replica, session_id: str) -> list[str]:
    """What the audit log has of the session."""
    return [event["what"] for event in fleet.get(f"/events?session_id={session_id}")["events"]]


def ask(fleet: Replica, user: str, profile: str = "1g.5gb") -> requests.Response:
    body = {"user_id": user, "mig_profile": profile}
    return requests.post(f"{fleet.url}/sessions", json=body, timeout=90)


def test_a_session_lives_from_post_to_ssh_to_delete(fleet: Replica, node: Node) -> None:
    made = fleet.create(ANN, mig_profile="3g.20gb")
    inside = fleet.in_session(ANN, "id -un; pwd; nvidia-smi -L; echo written > kept; cat /proc/self/status")
    user, home, gpu, mig, *status = inside.splitlines()
    assert (user, home) == (ANN, f"/home/{ANN}")
    assert made["gpu_uuid"] in mig
    assert gpu.startswith("GPU 0")
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    assert len(node.slices()) == 1
    eventually(lambda: {"logged-in", "logged-out"} <= set(recorded(fleet, made["session_id"])), SECONDS)
    assert fleet.delete(made["session_id"]).status_code == 204
    eventually(lambda: is_gone(fleet, node, made["session_id"]), SECONDS)
    eventually(lambda: fleet.refused(ANN), SECONDS)


def test_the_home_outlives_the_session(fleet: Replica) -> None:
    for number in range(2):
        made = fleet.create(ANN, mig_profile="1g.5gb")
        fleet.in_session(ANN, f"echo {number} >> numbers")
        seen = fleet.in_session(ANN, "cat numbers; stat -c %a ~; touch /tmp/here").split()
        assert fleet.delete(made["session_id"]).status_code == 204
    assert seen == ["0", "1", "2775"]


def test_the_end_of_a_lease_ends_the_pod(fleet: Replica, node: Node) -> None:
    made = fleet.create(ANN, mig_profile="1g.5gb")
    fleet.expire(made["session_id"])
    eventually(lambda: is_gone(fleet, node, made["session_id"]), SECONDS)
    answer = requests.get(f"{fleet.url}/sessions/{made['session_id']}", timeout=30)
    assert (answer.status_code, answer.json()["reason"]) == (410, "expired")


def test_an_extended_lease_is_seen_inside(fleet: Replica, session: dict[str, Any]) -> None:
    extended = requests.post(
        f"{fleet.url}/sessions/{session['session_id']}/extend", json={"minutes": 30}, timeout=30
    ).json()
    end = extended["expires_at"]
    eventually(lambda: end in fleet.in_session(ANN, "cat /etc/gateway/lease"), SECONDS)


def test_two_sessions_have_two_slices_and_no_third_one_fits(
    fleet: Replica, node: Node, session: dict[str, Any]
) -> None:
    other = fleet.create(BOB, mig_profile="3g.20gb")
    assert other["gpu_uuid"] != session["gpu_uuid"]
    assert len(node.slices()) == 2
    answer = ask(fleet, own.user("eve"), "2g.10gb")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/no-capacity")
    assert fleet.delete(other["session_id"]).status_code == 204


def test_a_session_whose_programs_have_ended_is_closed(fleet: Replica, node: Node) -> None:
    made = fleet.create(ANN, mig_profile="1g.5gb")
    subprocess.run(fleet.ssh(ANN, "kill 1; kill -9 -1"), capture_output=True, timeout=60)
    eventually(lambda: is_gone(fleet, node, made["session_id"]), SECONDS)


def test_without_a_kubelet_a_session_goes_on_and_its_end_waits(fleet: Replica, node: Node) -> None:
    made = fleet.create(ANN, mig_profile="3g.20gb")
    node.plane.place.stop("kubelet")
    try:
        assert fleet.in_session(ANN, "echo works") == "works\n"
        eventually(lambda: "does not answer" in (problem_of(fleet, made["session_id"]) or ""), SECONDS)
        assert ask(fleet, BOB).status_code == 503
        assert fleet.in_session(ANN, "echo works") == "works\n"
        assert fleet.delete(made["session_id"]).status_code == 202
        assert len(node.slices()) == 1
        assert fleet.objects(made["session_id"])
    finally:
        node.start_kubelet()
    eventually(lambda: is_gone(fleet, node, made["session_id"]), SECONDS)
    again = fleet.create(ANN, mig_profile="3g.20gb")
    assert fleet.delete(again["session_id"]).status_code == 204


def test_without_the_driver_the_end_of_a_session_waits(fleet: Replica, node: Node) -> None:
    made = fleet.create(ANN, mig_profile="3g.20gb")
    node.plane.place.stop("dra-driver")
    try:
        assert fleet.in_session(ANN, "nvidia-smi -L").count("MIG-") == 1
        assert fleet.delete(made["session_id"]).status_code == 202
        assert len(node.slices()) == 1
        assert fleet.objects(made["session_id"])
    finally:
        node.start_driver()
    eventually(lambda: is_gone(fleet, node, made["session_id"]), SECONDS)


def test_without_containerd_a_session_goes_on(fleet: Replica, node: Node, session: dict[str, Any]) -> None:
    node.plane.place.stop("containerd")
    try:
        assert fleet.in_session(ANN, "echo works") == "works\n"
    finally:
        node.start_containerd()
    other = fleet.create(BOB, mig_profile="1g.5gb")
    assert fleet.in_session(BOB, "echo works") == "works\n"
    assert fleet.delete(other["session_id"]).status_code == 204


@pytest.mark.parametrize("program", ["kube-apiserver", "etcd"])
def test_without_an_api_server_or_its_etcd_sessions_and_logins_go_on(
    fleet: Replica, node: Node, session: dict[str, Any], program: str
) -> None:
    node.plane.place.stop(program)
    try:
        assert fleet.in_session(ANN, "echo works") == "works\n"
        answer = ask(fleet, BOB)
        assert (answer.status_code, answer.json()["type"]) == (503, "/problems/kubernetes-unavailable")
        assert fleet.in_session(ANN, "echo works") == "works\n"
    finally:
        node.plane.start_etcd() if program == "etcd" else node.plane.start_apiserver()
        node.plane.await_ready()
    eventually(lambda: ask(fleet, BOB).status_code == 201, SECONDS)
    assert fleet.in_session(ANN, "echo works") == "works\n"
    close_all_but(fleet, session["session_id"])


def test_without_a_scheduler_nothing_is_opened_and_nothing_is_left(
    fleet: Replica, node: Node, session: dict[str, Any]
) -> None:
    fleet.kill("serve")
    fleet.serve(GATEWAY_START_TIMEOUT_SECONDS="3")
    node.plane.place.stop("kube-scheduler")
    try:
        assert ask(fleet, BOB).status_code == 503
        assert fleet.in_session(ANN, "echo works") == "works\n"
    finally:
        node.plane.start_scheduler()
        fleet.kill("serve")
        fleet.serve()
    eventually(lambda: sessions_of_cluster(fleet) == {session["session_id"]}, SECONDS)
    eventually(lambda: ask(fleet, BOB).status_code == 201, SECONDS)
    close_all_but(fleet, session["session_id"])


def test_without_controllers_a_session_ends_and_no_slice_is_given_twice(fleet: Replica, node: Node) -> None:
    made = fleet.create(ANN, mig_profile="7g.40gb")
    node.plane.place.stop("kube-controller-manager")
    try:
        assert fleet.in_session(ANN, "echo works") == "works\n"
        assert fleet.delete(made["session_id"]).status_code == 204
        assert ask(fleet, ANN, "7g.40gb").status_code == 503
    finally:
        node.plane.start_manager()
    eventually(lambda: is_gone(fleet, node, made["session_id"]), SECONDS)
    eventually(lambda: ask(fleet, ANN, "7g.40gb").status_code == 201, SECONDS)
    close_all_but(fleet)


@pytest.mark.parametrize("place", failpoints.CLUSTER_CREATE)
def test_a_gateway_that_is_killed_while_it_opens_leaves_nothing(
    fleet: Replica, node: Node, place: str
) -> None:
    dies(fleet, place, lambda: ask(fleet, ANN))
    eventually(lambda: not fleet.get("/sessions")["sessions"], SECONDS)
    eventually(lambda: not sessions_of_cluster(fleet) and not node.slices(), SECONDS)
    again = fleet.create(ANN, mig_profile="7g.40gb")
    assert fleet.delete(again["session_id"]).status_code == 204


@pytest.mark.parametrize("place", failpoints.CLUSTER_ROUTE)
def test_a_session_whose_gateway_is_killed_before_its_route_gets_it_later(
    fleet: Replica, node: Node, place: str
) -> None:
    dies(fleet, place, lambda: ask(fleet, ANN))
    [made] = fleet.get("/sessions")["sessions"]
    eventually(lambda: len(fleet.plane.api().list(PIPES, ROUTES)) == 1, SECONDS)
    assert fleet.delete(made["session_id"]).status_code == 204
    eventually(lambda: is_gone(fleet, node, made["session_id"]), SECONDS)


@pytest.mark.parametrize("place", failpoints.CLUSTER_DELETE)
def test_a_gateway_that_is_killed_while_it_closes_leaves_nothing(
    fleet: Replica, node: Node, place: str
) -> None:
    made = fleet.create(ANN, mig_profile="7g.40gb")
    dies(fleet, place, lambda: fleet.delete(made["session_id"]))
    eventually(lambda: is_gone(fleet, node, made["session_id"]), SECONDS)


def test_when_a_replica_is_killed_the_other_one_serves_its_sessions(
    fleet: Replica, node: Node, tmp_path: Path, session: dict[str, Any]
) -> None:
    second = replica(node, fleet.postgresql, fleet.database, tmp_path / "second")
    second.serve()
    try:
        fleet.kill("serve")
        assert second.get(f"/sessions/{session['session_id']}")["status"] == "active"
        assert fleet.in_session(ANN, "echo works") == "works\n"
        assert second.delete(session["session_id"]).status_code == 204
        eventually(lambda: not node.slices(), SECONDS)
    finally:
        second.kill("serve")
        fleet.serve()


def problem_of(fleet: Replica, session_id: str) -> str | None:
    problem: str | None = fleet.get(f"/sessions/{session_id}").get("problem")
    return problem


def sessions_of_cluster(fleet: Replica) -> set[str]:
    label = "gpu-ssh-gateway.io/session"
    found = [
        each["metadata"].get("labels") or {}
        for collection in ("v1/pods", "v1/secrets", "resource.k8s.io/v1/resourceclaims")
        for each in fleet.plane.api().list(collection, SESSIONS)
    ]
    return {labels[label] for labels in found if label in labels}


def close_all_but(fleet: Replica, *ids: str) -> None:
    for each in fleet.get("/sessions")["sessions"]:
        if each["session_id"] not in ids:
            assert fleet.delete(each["session_id"]).status_code == 204


def dies(fleet: Replica, place: str, act: Any) -> None:
    """The gateway's worker dies at the failpoint, then the rest of it; and it is started again."""
    fleet.kill("serve")
    fleet.serve(GATEWAY_FAILPOINTS=f"{place}=kill")
    with pytest.raises(requests.ConnectionError):
        act()
    fleet.kill("serve")
    fleet.serve()
