"""Whole sessions on a cluster in memory: the API, the services and the host of a cluster are the real
ones."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from shutil import copy
from typing import Any

import pytest
from sqlalchemy import Connection, event

from gateway import failpoints
from gateway.app import Parts, assemble
from gateway.background.prober import Prober
from gateway.cli.slice_map import draw
from gateway.domain.notice import NoticeState
from gateway.domain.recovery import on_a_cluster
from gateway.domain.ssh_keys import make_pair
from gateway.domain.states import Status
from gateway.errors import ContainerFailed, StartRefused
from gateway.repositories.sql.database import SqlDatabase
from gateway.services.recovery import Recovery
from gateway.services.usage import UsageLog
from tests.client import ApiClient
from tests.conftest import Bench
from tests.fakes.cluster import FakeCluster
from tests.fakes.cluster_host import cluster_parts
from tests.fakes.devices import slices
from tests.fakes.dying import dying_at
from tests.fakes.gpus import FakeGpus
from tests.on_a_cluster import OnCluster, a_cluster, put_an_older_database_back


@pytest.fixture
def on_cluster(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[OnCluster]:
    with a_cluster(bench, tmp_path / "cluster", empty_database) as made:
        yield made


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


def test_an_expired_session_is_closed_by_the_wall_clock(on_cluster: OnCluster) -> None:
    id = on_cluster.open(ttl_minutes=60)
    on_cluster.clock.advance(minutes=61)
    on_cluster.gateway.reaper.reap()
    assert on_cluster.ask("GET", f"/sessions/{id}").json["reason"] == "expired"
    assert on_cluster.left() == {}


def test_a_create_reads_the_other_sessions_while_others_may_write(on_cluster: OnCluster) -> None:
    over_all: list[bool] = []

    def note(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if " FROM sessions" in " ".join(statement.split()) and "WHERE" not in statement:
            over_all.append(bool(connection.get_execution_options().get("read_only")))

    event.listen(on_cluster.database.engine, "before_cursor_execute", note)
    on_cluster.open()
    assert over_all == [True]


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


def test_a_withdrawn_key_closes_the_connections_by_ssh(on_cluster: OnCluster, public_key: str) -> None:
    on_cluster.ask("PUT", "/users/ann/keys", ssh_public_keys=[public_key])
    id = on_cluster.open()
    address = on_cluster.address(id)
    on_cluster.logins.connections[address] = 2
    [before] = on_cluster.parts.pipes.list()
    answer = on_cluster.ask("PUT", "/users/ann/keys", ssh_public_keys=[make_pair().public])
    assert answer.status_code == 200, answer.json
    assert on_cluster.logins.connections[address] == 0
    [after] = on_cluster.parts.pipes.list()
    assert before.public_keys != after.public_keys


def test_users_without_a_session_read_why_it_ended_and_their_place_in_line(on_cluster: OnCluster) -> None:
    notices = on_cluster.parts.notices
    id = on_cluster.open("ann", "7g.40gb", ttl_minutes=60)
    waits = on_cluster.ask("POST", "/sessions", user_id="bob", mig_profile="7g.40gb", wait_minutes=300)
    assert waits.status_code == 202, waits.json
    waiting = notices.get("bob")
    assert waiting
    assert waiting.state is NoticeState.WAITING
    on_cluster.ask("DELETE", f"/sessions/{id}")
    ended = notices.get("ann")
    assert ended
    assert (ended.session_id, ended.state) == (id, NoticeState.ENDED)
    for due in on_cluster.gateway.queue.serve():
        on_cluster.gateway.queue.open(due)
    opened = notices.get("bob")
    assert opened
    assert opened.state is NoticeState.OPEN


def test_notices_that_are_right_are_not_written_again(on_cluster: OnCluster) -> None:
    on_cluster.ask("DELETE", f"/sessions/{on_cluster.open()}")
    on_cluster.cluster.api.requests.clear()
    on_cluster.gateway.reaper.reconcile()
    asked = [each for each in on_cluster.cluster.api.requests if "configmaps" in each]
    assert asked == ["GET configmaps"]
    [found] = on_cluster.cluster.api.of("configmaps")
    name = found["metadata"]["name"]
    on_cluster.cluster.api.change("configmaps", "gpu-routes", name, {"data": {"notice": "changed"}})
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.parts.notices.get("ann")


def test_the_gpus_have_the_slices_of_the_sessions(on_cluster: OnCluster) -> None:
    on_cluster.open("ann", "3g.20gb")
    on_cluster.open("bob", "2g.10gb")
    [gpu] = on_cluster.ask("GET", "/gpus").json["gpus"]
    assert sorted(one["profile"] for one in gpu["instances"]) == ["2g.10gb", "3g.20gb"]
    sessions = on_cluster.ask("GET", "/sessions").json["sessions"]
    assert {one["session_id"]: one["gpu_uuid"] for one in gpu["instances"]} == {
        one["session_id"]: one["gpu_uuid"] for one in sessions
    }
    assert all(one["gpu_uuid"] for one in sessions)
    profiles = {one["name"]: one for one in on_cluster.ask("GET", "/gpus/profiles").json["profiles"]}
    assert profiles["7g.40gb"]["available"] == 0


def recovery(on_cluster: OnCluster) -> Recovery:
    host, pipes = on_cluster.parts.host, on_cluster.parts.pipes
    remedies = on_a_cluster("gpu-sessions")
    return Recovery(on_cluster.database, host, pipes, on_cluster.clock, UsageLog(), remedies)


def test_with_an_older_database_nothing_is_removed_until_the_sessions_are_recorded_again(
    on_cluster: OnCluster,
) -> None:
    on_cluster.open("ann")
    forgotten = on_cluster.open("bob", "1g.5gb")
    before = on_cluster.left()
    put_an_older_database_back(on_cluster, forgotten)
    for _ in range(2):
        on_cluster.gateway.reaper.reconcile()
    assert on_cluster.left() == before
    found = recovery(on_cluster).recover()
    assert (found.adopted, found.lost) == (["bob"], [])
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.left() == before
    assert on_cluster.ask("GET", f"/sessions/{forgotten}").json["status"] == "active"
    assert on_cluster.ask("DELETE", f"/sessions/{forgotten}").status_code == 204


def test_the_slice_of_a_session_that_is_recorded_again_is_asked_for(on_cluster: OnCluster) -> None:
    forgotten = on_cluster.open("bob", "1g.5gb")
    before = on_cluster.ask("GET", f"/sessions/{forgotten}").json["gpu_uuid"]
    put_an_older_database_back(on_cluster, forgotten)
    recovery(on_cluster).recover()
    assert on_cluster.ask("GET", f"/sessions/{forgotten}").json["gpu_uuid"] is None
    Prober(on_cluster.database, on_cluster.parts.host, on_cluster.clock).ask()
    assert before
    assert on_cluster.ask("GET", f"/sessions/{forgotten}").json["gpu_uuid"] == before


def test_a_session_that_cannot_be_recorded_again_is_removed_once_an_administrator_has_seen_it(
    on_cluster: OnCluster,
) -> None:
    lost = on_cluster.open("bob", "1g.5gb")
    on_cluster.parts.pipes.remove(lost)
    put_an_older_database_back(on_cluster, lost)
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.cluster.api.names("pods") == [f"s-{lost}"]
    assert recovery(on_cluster).recover().lost == ["bob"]
    assert on_cluster.ask("GET", f"/sessions/{lost}").status_code == 410
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.left() == {}
    assert on_cluster.cluster.allocated() == []


def test_a_database_that_does_not_know_the_sessions_is_refused_with_what_helps_on_a_cluster(
    on_cluster: OnCluster,
) -> None:
    on_cluster.open()
    with on_cluster.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE deployment SET deployment_id = 'another'")
    with pytest.raises(StartRefused, match=r"pg_restore.*--namespace-sessions.*kubectl delete") as refusal:
        recovery(on_cluster).require_own_sessions()
    assert "docker" not in str(refusal.value)


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


def on_nodes(bench: Bench, directory: Path, empty_database: Path, *gpus_of: int) -> OnCluster:
    """A cluster whose nodes have so many GPUs each."""
    copy(empty_database, directory / "nodes.db")
    database = SqlDatabase(type(bench.settings.db)(directory / "nodes.db"))
    nodes = {
        f"node-{number}": [
            replace(gpu, uuid=f"GPU-{number}-{gpu.index}") for gpu in FakeGpus(["A100-40GB"] * count).list()
        ]
        for number, count in enumerate(gpus_of, 1)
    }
    parts = cluster_parts(database, cluster=FakeCluster(nodes.pop("node-1"), nodes))
    made = assemble(bench.settings, Parts(database, parts.host, parts.pipes, parts.notices, bench.clock))
    return OnCluster(made, parts, database, bench.clock)


def advised(pod: Any) -> tuple[list[str], list[str]]:
    """The nodes that a pod may go to, and those that it prefers."""
    affinity = pod["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    preferred = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    return (
        [name for term in terms for field in term["matchFields"] for name in field["values"]],
        [
            name
            for each in preferred
            for field in each["preference"]["matchFields"]
            for name in field["values"]
        ],
    )


def test_sessions_go_where_the_planner_would_put_them(
    bench: Bench, tmp_path: Path, empty_database: Path
) -> None:
    """It keeps whole GPUs free: small slices share one, also if the scheduler would begin elsewhere."""
    two = on_nodes(bench, tmp_path, empty_database, 1, 2)
    for number in range(7):
        two.open(f"user{number}", "1g.5gb")
    with two.database.read() as rows:
        assert len({row.gpu for row in rows.list()}) == 1
    pod = two.cluster.api.of("pods")[0]
    nodes, preferred = advised(pod)
    assert sorted(nodes) == ["node-1", "node-2"]
    assert preferred == [pod["spec"]["nodeName"]] == nodes[:1]
    two.database.engine.dispose()


def take(on_cluster: OnCluster, *nodes: str) -> None:
    """Others' claims hold these nodes' first GPUs, which the gateway cannot see."""
    for node in nodes:
        claim = {
            "metadata": {"name": f"others-{node}", "namespace": "gpu-sessions"},
            "status": {"allocation": {"devices": {"results": [{"pool": node, "device": "gpu-0"}]}}},
        }
        on_cluster.cluster.api.put("resourceclaims", claim)


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_advice_names_three_nodes_and_one_of_them_takes_the_session(
    bench: Bench, tmp_path: Path, empty_database: Path, taken: int
) -> None:
    four = on_nodes(bench, tmp_path, empty_database, 1, 1, 1, 1)
    names = ["node-1", "node-2", "node-3"]
    take(four, *names[:taken])
    four.open("bob", "7g.40gb")
    assert four.cluster.api.requests.count("POST pods") == 1
    [pod] = four.cluster.api.of("pods")
    assert advised(pod) == (names, names[:1])
    assert pod["spec"]["nodeName"] == names[taken]
    four.database.engine.dispose()


def test_advice_that_does_not_hold_any_more_costs_one_more_attempt(
    bench: Bench, tmp_path: Path, empty_database: Path
) -> None:
    four = on_nodes(bench, tmp_path, empty_database, 1, 1, 1, 1)
    take(four, "node-1", "node-2", "node-3")
    id = four.open("bob", "7g.40gb")
    assert four.cluster.api.requests.count("POST pods") == 2
    [pod] = four.cluster.api.of("pods")
    assert pod["spec"]["nodeName"] == "node-4"
    assert "affinity" not in pod["spec"]
    four.ask("DELETE", f"/sessions/{id}")
    take(four, "node-4")
    answer = four.ask("POST", "/sessions", user_id="eve", mig_profile="7g.40gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
    assert four.cluster.api.requests.count("POST pods") == 4
    four.database.engine.dispose()


def test_without_advice_the_scheduler_places_alone(on_cluster: OnCluster) -> None:
    object.__setattr__(on_cluster.parts.host, "gives_advice", False)
    on_cluster.open()
    [claim] = on_cluster.cluster.api.of("resourceclaims")
    [pod] = on_cluster.cluster.api.of("pods")
    assert "exactly" in claim["spec"]["devices"]["requests"][0]
    assert "affinity" not in pod["spec"]


def test_a_cordon_keeps_the_scheduler_off_one_gpu(bench: Bench, tmp_path: Path, empty_database: Path) -> None:
    """Also where the gateway gives no advice, or advice that does not hold any more."""
    two = on_nodes(bench, tmp_path, empty_database, 1, 2)
    object.__setattr__(two.parts.host, "gives_advice", False)
    gpus = two.ask("GET", "/gpus").json["gpus"]
    for gpu in gpus[:2]:
        assert two.ask("PUT", f"/gpus/{gpu['label']}/cordon", reason="a fan").status_code == 204
    two.open("ann", "1g.5gb")
    with two.database.read() as rows:
        assert [row.gpu for row in rows.list()] == [gpus[2]["uuid"]]
    assert two.ask("DELETE", f"/gpus/{gpus[0]['uuid']}/cordon").status_code == 204
    tainted = {rule["spec"]["deviceSelector"]["pool"] for rule in two.cluster.api.of("devicetaintrules")}
    assert tainted == {gpus[1]["node"]}
    assert two.ask("DELETE", f"/gpus/{gpus[1]['label'].replace('/', '%2F')}/cordon").status_code == 204
    assert two.cluster.api.names("devicetaintrules") == []
    two.database.engine.dispose()


def test_a_cordon_is_made_good_once_kubernetes_answers_and_begins_at_its_time(on_cluster: OnCluster) -> None:
    on_cluster.ask("GET", "/gpus")
    on_cluster.cluster.api.refusals["POST", "devicetaintrules"] = "not now"
    assert on_cluster.ask("PUT", "/gpus/node-1/0/cordon", reason="a fan").status_code == 204
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert answer.json["type"] == "/problems/no-capacity"
    on_cluster.cluster.api.refusals.clear()
    on_cluster.gateway.reaper.reconcile()
    rules = on_cluster.cluster.api.names("devicetaintrules")
    assert rules
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.cluster.api.names("devicetaintrules") == rules
    begin = on_cluster.clock.now + timedelta(hours=1)
    on_cluster.ask("PUT", "/gpus/node-1/0/cordon", **{"from": begin.isoformat()})
    assert on_cluster.cluster.api.names("devicetaintrules") == []
    on_cluster.clock.advance(minutes=61)
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.cluster.api.names("devicetaintrules") == rules


def test_a_rule_of_an_administrator_is_known_before_the_scheduler_is_asked(on_cluster: OnCluster) -> None:
    taint = {"key": "example.org/repair", "effect": "NoSchedule"}
    spec = {"deviceSelector": {"pool": "node-1"}, "taint": taint}
    on_cluster.cluster.api.put("devicetaintrules", {"metadata": {"name": "repair"}, "spec": spec})
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
    assert "tainted by the DeviceTaintRule repair" in answer.json["detail"]
    assert "POST pods" not in on_cluster.cluster.api.requests


def test_a_role_that_may_not_read_rules_opens_sessions_all_the_same(on_cluster: OnCluster) -> None:
    on_cluster.cluster.api.refusals["GET", "devicetaintrules"] = "devicetaintrules is forbidden"
    on_cluster.open()


def test_a_gpu_whose_node_is_away_keeps_its_cordon(on_cluster: OnCluster) -> None:
    on_cluster.ask("PUT", "/gpus/node-1/0/cordon", reason="a fan")
    rules = on_cluster.cluster.api.names("devicetaintrules")
    for found in on_cluster.cluster.api.of("resourceslices"):
        on_cluster.cluster.api.remove("resourceslices", "", found["metadata"]["name"])
    on_cluster.parts.host.gpus.inventory(is_new=True)
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.cluster.api.names("devicetaintrules") == rules


def test_the_rules_of_a_gpu_that_was_replaced_close_no_other_one(on_cluster: OnCluster) -> None:
    on_cluster.ask("PUT", "/gpus/node-1/0/cordon", reason="a fan")
    for found in slices("node-1", FakeGpus(["A100-40GB"]).list()):
        on_cluster.cluster.api.put("resourceslices", found)
    on_cluster.parts.host.gpus.inventory(is_new=True)
    on_cluster.gateway.reaper.reconcile()
    assert on_cluster.cluster.api.names("devicetaintrules") == []
    assert on_cluster.ask("GET", "/gpus").json["gpus"][0]["cordoned"] is False


def test_a_cordon_hits_the_gpu_that_it_names_when_a_node_has_come(
    bench: Bench, tmp_path: Path, empty_database: Path
) -> None:
    two = on_nodes(bench, tmp_path, empty_database, 1, 2)
    api, wanted = two.cluster.api, two.ask("GET", "/gpus").json["gpus"][1]
    api.put("nodes", {**api.of("nodes")[0], "metadata": {"name": "node-0"}})
    for found in slices("node-0", FakeGpus(["A100-40GB"]).list()):
        api.put("resourceslices", found)
    two.parts.host.gpus.inventory(is_new=True)
    answer = two.ask("PUT", f"/gpus/{wanted['index']}/cordon")
    assert (answer.status_code, answer.json["type"]) == (422, "/problems/invalid-request")
    assert "node-0/0" in answer.json["detail"]
    assert two.ask("PUT", f"/gpus/{wanted['label']}/cordon").status_code == 204
    cordoned = [gpu for gpu in two.ask("GET", "/gpus").json["gpus"] if gpu["cordoned"]]
    assert [(gpu["uuid"], gpu["index"]) for gpu in cordoned] == [(wanted["uuid"], wanted["index"] + 1)]
    two.database.engine.dispose()


def test_a_gpu_names_its_node(bench: Bench, tmp_path: Path, empty_database: Path) -> None:
    two = on_nodes(bench, tmp_path, empty_database, 1, 2)
    gpus = two.ask("GET", "/gpus").json["gpus"]
    assert [gpu["node"] for gpu in gpus] == ["node-1", "node-2", "node-2"]
    assert two.ask("GET", "/gpus?node=node-2").json["gpus"] == gpus[1:]
    assert two.ask("GET", "/gpus?node=node-2&limit=1").json["gpus"] == gpus[1:2]
    assert two.ask("GET", "/gpus?node=node-9").json["gpus"] == []
    assert [gpu["label"] for gpu in gpus] == ["node-1/0", "node-2/0", "node-2/1"]
    assert "GPU node-2/0 " in draw(gpus, two.clock.now)
    page = two.gateway.flask.test_client().get("/ui/", headers={"Host": "localhost"})
    assert "GPU node-2/0 " in page.text
    two.database.engine.dispose()


def test_readiness_names_the_classes_that_are_missing(on_cluster: OnCluster) -> None:
    def classes() -> str:
        on_cluster.clock.advance(seconds=5)
        return str(on_cluster.ask("GET", "/readyz").json["parts"]["device-classes"])

    assert classes() == "ok: 7 profiles have a DeviceClass"
    on_cluster.cluster.api.remove("deviceclasses", "", "mig-3g.20gb")
    assert "no DeviceClass mig-3g.20gb" in classes()


def test_a_simulated_device_gets_a_uuid_without_nvidia_smi(
    bench: Bench, tmp_path: Path, empty_database: Path
) -> None:
    copy(empty_database, tmp_path / "simulated.db")
    database = SqlDatabase(type(bench.settings.db)(tmp_path / "simulated.db"))
    parts = cluster_parts(database, cluster=FakeCluster(FakeGpus(["A100-40GB"]).list()))
    gateway = assemble(bench.settings, Parts(database, parts.host, parts.pipes, parts.notices, bench.clock))
    opened = ApiClient(gateway.flask).post("/sessions", json={"user_id": "ann", "mig_profile": "1g.5gb"})
    assert opened.json["gpu_uuid"].startswith("MIG-")
    with database.begin() as rows:
        rows.live(opened.json["session_id"]).gpu_uuid = None
    Prober(database, parts.host, bench.clock).ask()
    with database.read() as rows:
        assert rows.live(opened.json["session_id"]).gpu_uuid == opened.json["gpu_uuid"]
    assert "-L" not in parts.logins.commands
    database.engine.dispose()


def test_a_slice_that_the_session_does_not_see_alone_fails_it(on_cluster: OnCluster) -> None:
    on_cluster.logins.listing = "  MIG (UUID: MIG-1)\n  MIG (UUID: MIG-2)\n"
    answer = on_cluster.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert answer.status_code == 503
    assert "MIG-1, MIG-2" in answer.json["detail"]
    assert on_cluster.left() == {}


LOST = ContainerFailed(
    "A command in the session failed: Unable to determine the device handle for GPU0: GPU is lost."
)
PROBLEM = "The nvidia-smi of the session says that its GPU is lost."


def problem_of(on_cluster: OnCluster, id: str) -> str | None:
    on_cluster.gateway.reaper.reconcile()
    found: str | None = on_cluster.ask("GET", f"/sessions/{id}").json["problem"]
    return found


def test_a_session_that_has_lost_its_gpu_is_asked_marked_and_recovers(on_cluster: OnCluster) -> None:
    prober = Prober(on_cluster.database, on_cluster.parts.host, on_cluster.clock)
    id = on_cluster.open()
    prober.ask()
    on_cluster.logins.listing = LOST
    on_cluster.clock.advance(minutes=29)
    prober.ask()
    assert problem_of(on_cluster, id) is None
    on_cluster.clock.advance(minutes=1)
    prober.ask()
    assert problem_of(on_cluster, id) == PROBLEM
    on_cluster.parts.host.lost.clear()  # another process leads
    assert problem_of(on_cluster, id) == PROBLEM
    on_cluster.logins.listing = ContainerFailed("A command in the session failed: Cannot fork")
    on_cluster.clock.advance(minutes=30)
    prober.ask()
    assert problem_of(on_cluster, id) == PROBLEM, "no answer is no recovery"
    on_cluster.logins.listing = "GPU 0: NVIDIA A100 (UUID: GPU-3e9c)\n"
    on_cluster.clock.advance(minutes=30)
    prober.ask()
    assert problem_of(on_cluster, id) is None
    assert on_cluster.ask("GET", f"/sessions/{id}").json["status"] == "active"


def test_a_session_that_cannot_be_asked_is_not_marked(on_cluster: OnCluster) -> None:
    prober = Prober(on_cluster.database, on_cluster.parts.host, on_cluster.clock)
    id = on_cluster.open()
    prober.ask()
    on_cluster.logins.listing = ContainerFailed("A command in the session failed: Cannot fork")
    on_cluster.clock.advance(minutes=30)
    prober.ask()
    assert problem_of(on_cluster, id) is None


@pytest.fixture
def watched(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[OnCluster]:
    """A cluster where sessions that nobody uses end."""
    idle = {"idle_minutes": 30, "idle_policy": "always"}
    with a_cluster(bench, tmp_path / "cluster", empty_database, **idle) as made:
        yield made


def pass_time(on_cluster: OnCluster, minutes: int) -> None:
    for _ in range(minutes):
        on_cluster.clock.advance(minutes=1)
        for session in on_cluster.gateway.idle.due():
            on_cluster.gateway.idle.examine(session)


def test_a_session_that_nobody_uses_ends_after_a_warning(watched: OnCluster) -> None:
    id = watched.open()
    address = watched.address(id)
    pass_time(watched, 26)
    assert watched.ask("GET", f"/sessions/{id}").json["status"] == "active"
    [warning] = watched.logins.terminals[address]
    assert "Nobody has used this session" in warning
    pass_time(watched, 14)
    assert watched.ask("GET", f"/sessions/{id}").json["reason"] == "idle"
    assert watched.left() == {}


@pytest.mark.parametrize("on_gpu", ["1", "unknown"])
def test_a_program_that_has_the_gpu_open_keeps_the_session(watched: OnCluster, on_gpu: str) -> None:
    id = watched.open()
    watched.logins.on_gpu[watched.address(id)] = on_gpu
    pass_time(watched, 60)
    assert watched.ask("GET", f"/sessions/{id}").json["status"] == "active"
    signals = {
        each["name"]: each["state"] for each in watched.ask("GET", f"/sessions/{id}/activity").json["signals"]
    }
    assert (signals["gpu"], signals["connections"]) == ("unknown", "idle")


def test_an_open_connection_keeps_the_session(watched: OnCluster) -> None:
    id = watched.open()
    watched.logins.connections[watched.address(id)] = 1
    pass_time(watched, 60)
    assert watched.ask("GET", f"/sessions/{id}").json["status"] == "active"
