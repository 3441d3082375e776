"""Sessions that start on a cluster, and what keeps them from it."""

import pytest
from sqlalchemy import Connection, event

from tests.on_a_cluster import OnCluster


def test_a_session_is_a_pod_a_claim_a_secret_a_home_and_a_route(on_cluster: OnCluster) -> None:
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="3g.20gb")
    assert answer.status_code == 201, answer.json
    name = f"s-{answer.json['session_id']}"
    names = on_cluster.cluster.api.names
    assert on_cluster.left() == {
        "pods": [name],
        "secrets": [name, name],
        "resourceclaims": [name],
        "pipes": [name],
    }
    assert names("persistentvolumeclaims") == ["home-20000"]
    assert answer.json["container_id"] == name
    assert answer.json["gpu_uuid"].startswith("MIG-")
    [pipe] = on_cluster.cluster.api.of("pipes")
    assert pipe["spec"]["to"]["host"] == f"{on_cluster.address(answer.json['session_id'])}:2222"


def test_a_user_with_a_home_costs_few_requests_and_each_only_once(on_cluster: OnCluster) -> None:
    spec = {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}
    metadata = {"name": "gateway", "namespace": "gpu-gateway"}
    on_cluster.cluster.api.put("services", {"metadata": metadata, "spec": spec})
    on_cluster.ask("DELETE", f"/sessions/{on_cluster.open()}")
    on_cluster.cluster.api.requests.clear()
    on_cluster.open()
    assert on_cluster.cluster.api.requests == [
        "GET persistentvolumeclaims",
        "POST secrets",
        "POST resourceclaims",
        "POST pods",
        "watch pods",
        "GET resourceclaims",
        "POST secrets",
        "POST pipes",
        "DELETE configmaps",
    ]


def test_a_session_lives_from_post_to_delete(on_cluster: OnCluster) -> None:
    id = on_cluster.open(ttl_minutes=60)
    extended = on_cluster.ask("POST", f"/sessions/{id}/extend", minutes=30)
    assert extended.status_code == 200, extended.json
    [pod] = on_cluster.cluster.api.of("pods")
    assert pod["metadata"]["annotations"]["gpu-ssh-gateway.io/lease-ends"] == extended.json["expires_at"]
    answer = on_cluster.ask("POST", f"/sessions/{id}/message", text="maintenance at noon")
    assert answer.status_code == 200, answer.json
    assert any("maintenance at noon" in text for text in on_cluster.logins.terminals[on_cluster.address(id)])
    assert on_cluster.ask("DELETE", f"/sessions/{id}").status_code == 204
    assert on_cluster.left() == {}
    assert on_cluster.cluster.allocated() == []
    assert on_cluster.cluster.api.names("persistentvolumeclaims") == ["home-20000"]


def test_the_next_session_finds_the_same_home(on_cluster: OnCluster) -> None:
    on_cluster.ask("DELETE", f"/sessions/{on_cluster.open()}")
    on_cluster.open()
    assert on_cluster.cluster.api.names("persistentvolumeclaims") == ["home-20000"]


def test_a_home_of_somebody_else_is_refused(on_cluster: OnCluster) -> None:
    home = {"metadata": {"name": "home-20000", "namespace": "gpu-sessions"}}
    home["metadata"]["annotations"] = {"gpu-ssh-gateway.io/user": "eve"}  # type: ignore[assignment]
    on_cluster.cluster.api.put("persistentvolumeclaims", home)
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/workspace-refused")
    assert "home-20000 belongs to eve" in answer.json["detail"]
    assert on_cluster.left() == {}


def test_a_full_cluster_is_known_before_the_scheduler_is_asked(on_cluster: OnCluster) -> None:
    on_cluster.open("ann", "7g.40gb")
    on_cluster.cluster.api.requests.clear()
    answer = on_cluster.ask("POST", "/sessions", user_id="bob", mig_profile="1g.5gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
    assert answer.json["retry_at"]
    assert "POST pods" not in on_cluster.cluster.api.requests


def test_a_pod_that_no_node_takes_is_no_capacity_with_the_schedulers_words(on_cluster: OnCluster) -> None:
    taken = {
        "metadata": {"name": "somebody-elses", "namespace": "gpu-sessions"},
        "status": {"allocation": {"devices": {"results": [{"pool": "node-1", "device": "gpu-0"}]}}},
    }
    on_cluster.cluster.api.put("resourceclaims", taken)
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
    assert "cannot allocate all claims" in answer.json["detail"]
    on_cluster.cluster.api.remove("resourceclaims", "gpu-sessions", "somebody-elses")
    assert on_cluster.left() == {}


def test_a_missing_image_is_said_and_leaves_nothing(on_cluster: OnCluster) -> None:
    on_cluster.cluster.image_error = "ErrImagePull"
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/container-failed")
    assert "ErrImagePull: no such image" in answer.json["detail"]
    assert on_cluster.left() == {}
    assert on_cluster.cluster.allocated() == []


def test_without_a_scheduler_a_session_fails_in_time_and_its_pod_is_gone(
    on_cluster: OnCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(on_cluster.parts.host.running, "start_timeout_seconds", 0.3)
    on_cluster.cluster.is_scheduling = False
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/container-failed")
    assert "on no node yet" in answer.json["detail"]
    assert on_cluster.left() == {}


def test_an_api_that_is_away_ends_nothing_and_is_named(on_cluster: OnCluster) -> None:
    id = on_cluster.open()
    on_cluster.cluster.api.is_down = True
    answer = on_cluster.ask("POST", "/sessions", user_id="bob", mig_profile="1g.5gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/kubernetes-unavailable")
    on_cluster.gateway.reaper.reconcile()
    on_cluster.cluster.api.is_down = False
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.ask("GET", f"/sessions/{id}").status_code == 200
    assert len(on_cluster.cluster.api.names("pods")) == 1


def test_a_create_reads_the_other_sessions_while_others_may_write(on_cluster: OnCluster) -> None:
    over_all: list[bool] = []

    def note(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if " FROM sessions" in " ".join(statement.split()) and "WHERE" not in statement:
            over_all.append(bool(connection.get_execution_options().get("read_only")))

    event.listen(on_cluster.database.engine, "before_cursor_execute", note)
    on_cluster.open()
    assert over_all == [True]
