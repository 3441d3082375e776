"""Sessions that end on a cluster, in any way, and what is left of them."""

import pytest

from gateway import failpoints
from gateway.domain.states import Status
from tests.fakes.dying import dying_at
from tests.on_a_cluster import OnCluster


def test_objects_go_in_an_order_in_which_no_slice_has_two_users(on_cluster: OnCluster) -> None:
    id = on_cluster.open()
    on_cluster.cluster.api.requests.clear()
    on_cluster.ask("DELETE", f"/sessions/{id}")
    removed = [each for each in on_cluster.cluster.api.requests if each.startswith("DELETE")]
    assert removed == [
        "DELETE pipes",
        "DELETE secrets",
        "DELETE pods",
        "DELETE resourceclaims",
        "DELETE secrets",
    ]


def test_a_claim_stays_while_the_pod_has_not_gone(
    on_cluster: OnCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.repositories.kubernetes.running._REMOVAL_SECONDS", 0.0)
    monkeypatch.setattr("gateway.repositories.kubernetes.running._WATCH_SECONDS", 1)
    id = on_cluster.open()
    on_cluster.cluster.is_stopping = False
    assert on_cluster.ask("DELETE", f"/sessions/{id}").status_code == 202
    [pod] = on_cluster.cluster.api.of("pods")
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 1
    assert on_cluster.cluster.allocated()
    problem = on_cluster.ask("GET", f"/sessions/{id}").json["problem"]
    assert f"The Pod s-{id} is not gone" in problem
    assert "node-1" in problem
    on_cluster.cluster.is_stopping = True
    on_cluster.cluster.go_on()
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.ask("GET", f"/sessions/{id}").status_code == 410
    assert on_cluster.left() == {}
    assert on_cluster.cluster.allocated() == []


def test_nobody_waits_for_the_end_of_a_session_on_a_node_that_does_not_answer(on_cluster: OnCluster) -> None:
    id = on_cluster.open()
    on_cluster.cluster.is_stopping = False
    silent = {"conditions": [{"type": "Ready", "status": "False"}]}
    on_cluster.cluster.api.change("pods", "gpu-sessions", f"s-{id}", {"status": silent})
    on_cluster.cluster.api.requests.clear()
    assert on_cluster.ask("DELETE", f"/sessions/{id}").status_code == 202
    problem = on_cluster.ask("GET", f"/sessions/{id}").json["problem"]
    assert problem == f"The Pod s-{id} is not gone: its node node-1 does not answer."
    assert "watch pods" not in on_cluster.cluster.api.requests
    assert on_cluster.cluster.allocated()
    for more in ({}, {"wait_minutes": 10}):
        answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb", **more)
        assert (answer.status_code, answer.json["session_id"]) == (409, id)
        assert f"The session {id} of ann is being closed" in answer.json["detail"]


def test_a_removal_that_takes_long_is_waited_for_only_once(on_cluster: OnCluster) -> None:
    id, api = on_cluster.open(), on_cluster.cluster.api
    on_cluster.cluster.is_stopping = False
    long_ago = {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    api.change("pods", "gpu-sessions", f"s-{id}", {"metadata": long_ago})
    api.requests.clear()
    assert on_cluster.ask("DELETE", f"/sessions/{id}").status_code == 202
    assert "watch pods" not in api.requests
    assert "is not gone after 30 s" in on_cluster.ask("GET", f"/sessions/{id}").json["problem"]


def test_an_expired_session_is_closed_by_the_wall_clock(on_cluster: OnCluster) -> None:
    id = on_cluster.open(ttl_minutes=60)
    on_cluster.clock.advance(minutes=61)
    on_cluster.gateway.reaper.reap()
    assert on_cluster.ask("GET", f"/sessions/{id}").json["reason"] == "expired"
    assert on_cluster.left() == {}


@pytest.mark.parametrize(
    ("exit_code", "why", "reason"),
    [(0, "Completed", "user_exit"), (137, "OOMKilled", "out_of_memory"), (137, "Error", "killed")],
)
def test_a_pod_that_ends_by_itself_closes_its_session_with_the_reason(
    on_cluster: OnCluster, exit_code: int, why: str, reason: str
) -> None:
    id = on_cluster.open()
    on_cluster.cluster.end(id, exit_code, why)
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.ask("GET", f"/sessions/{id}").json["reason"] == reason
    assert on_cluster.left() == {}


def test_a_node_that_does_not_answer_marks_its_sessions_and_ends_none(on_cluster: OnCluster) -> None:
    id = on_cluster.open()
    not_ready = {"conditions": [{"type": "Ready", "status": "False"}]}
    on_cluster.cluster.api.change("pods", "gpu-sessions", f"s-{id}", {"status": not_ready})
    on_cluster.gateway.reaper.reconcile()
    answer = on_cluster.ask("GET", f"/sessions/{id}")
    assert "node does not answer" in answer.json["problem"]
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    on_cluster.cluster.api.change("pods", "gpu-sessions", f"s-{id}", {"status": ready})
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.ask("GET", f"/sessions/{id}").json["problem"] is None


def test_sessions_of_another_database_are_left_alone(on_cluster: OnCluster) -> None:
    on_cluster.open()
    foreign = on_cluster.cluster.api.of("pods")[0]
    foreign["metadata"] |= {"name": "s-foreign"}
    foreign["metadata"]["labels"] |= {
        "gpu-ssh-gateway.io/session": "foreign",
        "gpu-ssh-gateway.io/deployment": "another",
    }
    on_cluster.cluster.api.put("pods", foreign)
    on_cluster.gateway.reaper.reconcile()
    assert "s-foreign" in on_cluster.cluster.api.names("pods")
    assert {survivor.deployment for survivor in on_cluster.parts.host.survivors()} > {"another"}
    with on_cluster.database.read() as rows:
        others = on_cluster.parts.host.survivors(besides=rows.deployment_id())
    assert [survivor.deployment for survivor in others] == ["another"]


@pytest.mark.parametrize("place", failpoints.CLUSTER_CREATE + failpoints.CLUSTER_ROUTE)
def test_a_start_that_fails_anywhere_leaves_nothing(on_cluster: OnCluster, place: str) -> None:
    failpoints.arm(f"{place}=error")
    assert on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="3g.20gb").status_code == 503
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.left() == {}
    assert on_cluster.cluster.allocated() == []
    on_cluster.open()


@pytest.mark.parametrize("place", failpoints.CLUSTER_DELETE)
def test_a_close_that_fails_anywhere_is_finished_later(on_cluster: OnCluster, place: str) -> None:
    id = on_cluster.open()
    failpoints.arm(f"{place}=error")
    on_cluster.ask("DELETE", f"/sessions/{id}")
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.ask("GET", f"/sessions/{id}").json["reason"] == "deleted"
    assert on_cluster.left() == {}
    assert on_cluster.cluster.allocated() == []


@pytest.mark.parametrize("place", failpoints.CLUSTER_CREATE + failpoints.CLUSTER_ROUTE)
def test_what_a_dead_process_was_opening_is_closed_by_the_leader(on_cluster: OnCluster, place: str) -> None:
    with dying_at(place):
        on_cluster.gateway.sessions.open("ann", mig_profile="3g.20gb")
    on_cluster.gateway.reaper.reconcile()
    with on_cluster.database.read() as rows:
        assert all(row.status == Status.ACTIVE for row in rows.list())
    if place not in failpoints.CLUSTER_ROUTE:
        assert on_cluster.left() == {}
    on_cluster.gateway.reaper.reconcile()
    assert len(on_cluster.cluster.allocated()) == len(on_cluster.cluster.api.names("pods"))


def test_a_slice_is_free_also_if_the_route_of_its_session_cannot_be_removed(on_cluster: OnCluster) -> None:
    id = on_cluster.open("ann", "7g.40gb")
    on_cluster.cluster.api.refusals["DELETE", "pipes"] = "not now"
    assert on_cluster.ask("DELETE", f"/sessions/{id}").status_code == 202
    assert on_cluster.cluster.allocated() == []
    next_id = on_cluster.open("bob", "7g.40gb")
    on_cluster.cluster.api.refusals.clear()
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.ask("GET", f"/sessions/{id}").json["reason"] == "deleted"
    assert on_cluster.left()["pipes"] == [f"s-{next_id}"]


def test_who_gets_the_address_and_the_slice_of_a_lost_pod_has_them(on_cluster: OnCluster) -> None:
    """The cluster has given both away before the gateway saw that the pod is gone."""
    id = on_cluster.open("ann", "3g.20gb")
    address = on_cluster.address(id)
    on_cluster.cluster.lose(id)
    on_cluster.cluster.api.remove("resourceclaims", "gpu-sessions", f"s-{id}")
    on_cluster.cluster.free_addresses.append(address)
    next_id = on_cluster.open("bob", "3g.20gb")
    assert on_cluster.address(next_id) == address
    with on_cluster.database.read() as rows:
        assert (rows.live(id).address, rows.live(id).allocation) == (None, None)
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.ask("GET", f"/sessions/{id}").json["reason"] == "failed"
    assert on_cluster.ask("GET", f"/sessions/{next_id}").json["status"] == "active"
