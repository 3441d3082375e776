"""Sessions of the gateway on a real control plane: API server, scheduler and controllers decide, nodes are
fake."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.database_url import DatabaseUrl
from gateway.domain.models import Session
from gateway.repositories.kubernetes import api as kubernetes_api
from gateway.repositories.kubernetes.cluster import ClusterHost
from gateway.repositories.kubernetes.objects import Site
from gateway.repositories.kubernetes.pipes import ClusterPipes
from gateway.repositories.sql.database import SqlDatabase
from tests.client import ApiClient, AsksApi
from tests.fleet.api import Object
from tests.fleet.control_plane import ControlPlane
from tests.fleet.in_process import NODE, NoSshd, gateway_on, own_namespaces
from tests.fleet.nodes import Fakelet
from tests.whole_gateway import eventually

_SECONDS = 60  # for what controllers do in the background on a loaded machine
_COLLECTIONS = {"pods": "v1/pods", "secrets": "v1/secrets", "claims": "resource.k8s.io/v1/resourceclaims"}


@dataclass
class Fleet(AsksApi):
    plane: ControlPlane
    site: Site
    fakelet: Fakelet
    gateway: Gateway
    host: ClusterHost
    pipes: ClusterPipes
    database: SqlDatabase

    def objects(self, name: str) -> list[Object]:
        return self.plane.api().list(_COLLECTIONS[name], self.site.sessions)

    def names(self, name: str) -> list[str]:
        return [found["metadata"]["name"] for found in self.objects(name)]

    def left(self) -> list[str]:
        """What there is of sessions, without the homes."""
        found = [each for name in _COLLECTIONS for each in self.names(name)]
        return [*found, *(pipe.session_id for pipe in self.pipes.list())]

    def rows(self) -> list[Session]:
        with self.database.read() as rows:
            return list(rows.list())


@pytest.fixture
def fleet(cluster: ControlPlane, postgresql_url: DatabaseUrl, tmp_path: Path) -> Iterator[Fleet]:
    with (
        own_namespaces(cluster.api()) as site,
        Fakelet(cluster.api()) as fakelet,
        gateway_on(cluster, postgresql_url, site, tmp_path, NoSshd(cluster, site.sessions)) as made,
    ):
        fleet = Fleet(cluster, site, fakelet, made.gateway, made.host, made.pipes, made.database)
        yield fleet
        fakelet.holds.clear()
        for row in fleet.rows():
            fleet.ask("DELETE", f"/sessions/{row.id}")
        fleet.gateway.reaper.reconcile()
        eventually(lambda: fleet.left() == [], _SECONDS)


def test_a_session_lives_from_post_to_delete(fleet: Fleet) -> None:
    id = fleet.open(ttl_minutes=60)
    [pod] = fleet.objects("pods")
    [claim] = fleet.objects("claims")
    [row] = fleet.rows()
    assert pod["spec"]["nodeName"] == NODE
    assert claim["status"]["reservedFor"][0]["name"] == f"s-{id}"
    assert (row.status, row.address, row.mig_profile) == ("active", pod["status"]["podIP"], "3g.20gb")
    assert row.allocation
    [gpu] = fleet.host.list_gpus()
    assert [(one.profile, one.placement) for one in gpu.instances] == [("3g.20gb", row.placement)]
    extended = fleet.ask("POST", f"/sessions/{id}/extend", minutes=30).json
    [pod] = fleet.objects("pods")
    assert pod["metadata"]["annotations"]["gpu-ssh-gateway.io/lease-ends"] == extended["expires_at"]
    assert [pipe.session_id for pipe in fleet.pipes.list()] == [id]
    fleet.close(id)
    eventually(lambda: fleet.left() == [], _SECONDS)
    assert [home["metadata"]["name"] for home in fleet.plane.api().list("v1/persistentvolumeclaims")]


def test_the_scheduler_fills_a_gpu_and_no_slice_is_given_twice(fleet: Fleet) -> None:
    ids = [fleet.open(f"user{number}", "1g.5gb") for number in range(7)]
    places = {row.placement for row in fleet.rows()}
    assert len(places) == 7
    answer = fleet.ask("POST", "/sessions", user_id="more", mig_profile="1g.5gb")
    assert answer.json["type"] == "/problems/no-capacity"
    fleet.close(ids[3])
    fleet.open("more", "1g.5gb")


def test_what_only_the_scheduler_knows_to_be_taken_is_no_capacity(fleet: Fleet) -> None:
    """A pod of another namespace has the GPU: the gateway has no right to see its claim."""
    api = fleet.plane.api()
    wanted = {
        "name": "gpu",
        "exactly": {"deviceClassName": "mig-7g.40gb", "allocationMode": "ExactCount", "count": 1},
    }
    claim = {
        "metadata": {"name": "other", "namespace": "default"},
        "spec": {"devices": {"requests": [wanted]}},
    }
    api.create("resource.k8s.io/v1/resourceclaims", claim)
    spec = {
        "containers": [{"name": "c", "image": "none", "resources": {"claims": [{"name": "gpu"}]}}],
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "other"}],
    }
    api.create("v1/pods", {"metadata": {"name": "other", "namespace": "default"}, "spec": spec})
    eventually(lambda: _is_running(api.get("v1/pods", "other", "default")), _SECONDS)
    answer = fleet.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
    assert "cannot allocate all claims" in answer.json["detail"]
    eventually(lambda: fleet.left() == [], _SECONDS)
    api.delete("v1/pods", "other", "default")
    api.delete("resource.k8s.io/v1/resourceclaims", "other", "default")
    eventually(lambda: api.get("resource.k8s.io/v1/resourceclaims", "other", "default") is None, _SECONDS)
    fleet.open()


def test_a_claim_is_kept_until_its_pod_has_gone(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.repositories.kubernetes.running._REMOVAL_SECONDS", 0.5)
    monkeypatch.setattr("gateway.repositories.kubernetes.running._WATCH_SECONDS", 1)
    id = fleet.open("ann", "7g.40gb")
    fleet.fakelet.holds.add(f"s-{id}")
    assert fleet.ask("DELETE", f"/sessions/{id}").status_code == 202
    [pod] = fleet.objects("pods")
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 1
    [claim] = fleet.objects("claims")
    assert claim["status"]["allocation"]
    assert fleet.ask("POST", "/sessions", user_id="bob", mig_profile="1g.5gb").status_code == 503
    fleet.fakelet.holds.clear()
    eventually(lambda: fleet.names("pods") == [], _SECONDS)
    fleet.gateway.reaper.reconcile()
    assert fleet.ask("GET", f"/sessions/{id}").status_code == 410
    eventually(lambda: fleet.left() == [], _SECONDS)


def test_a_session_whose_pod_was_deleted_is_noticed_and_closed(fleet: Fleet) -> None:
    id = fleet.open()
    ended: list[str] = []
    endings = fleet.host.endings()
    thread = threading.Thread(target=lambda: ended.extend(endings))
    thread.start()
    fleet.plane.api().delete("v1/pods", f"s-{id}", fleet.site.sessions, grace=1)
    eventually(lambda: ended == [id], _SECONDS)
    endings.close()
    thread.join(_SECONDS)
    fleet.gateway.reaper.reconcile()
    assert fleet.ask("GET", f"/sessions/{id}").status_code == 410
    eventually(lambda: fleet.left() == [], _SECONDS)


def test_without_an_api_server_sessions_stay_and_nothing_is_opened(fleet: Fleet) -> None:
    id = fleet.open()
    fleet.plane.place.stop("kube-apiserver")
    try:
        answer = fleet.ask("POST", "/sessions", user_id="bob", mig_profile="1g.5gb")
        assert (answer.status_code, answer.json["type"]) == (503, "/problems/kubernetes-unavailable")
        fleet.gateway.reaper.reconcile()
        assert fleet.ask("GET", f"/sessions/{id}").json["status"] == "active"
    finally:
        fleet.plane.start_apiserver()
    eventually(lambda: _answers(fleet), _SECONDS)
    fleet.gateway.reaper.reconcile()
    assert fleet.ask("GET", f"/sessions/{id}").json["status"] == "active"
    eventually(
        lambda: fleet.ask("POST", "/sessions", user_id="bob", mig_profile="1g.5gb").status_code == 201,
        _SECONDS,
    )


def test_without_a_scheduler_a_create_fails_and_its_pod_is_gone(fleet: Fleet) -> None:
    object.__setattr__(fleet.host.running, "start_timeout_seconds", 1.0)
    fleet.plane.place.stop("kube-scheduler")
    try:
        answer = fleet.ask("POST", "/sessions", user_id="ann", mig_profile="1g.5gb")
        assert (answer.status_code, answer.json["type"]) == (503, "/problems/container-failed")
        assert fleet.names("pods") == []
    finally:
        fleet.plane.start_scheduler()
    object.__setattr__(fleet.host.running, "start_timeout_seconds", 60.0)
    fleet.open()


def test_without_controllers_capacity_is_hidden_and_nothing_is_given_twice(fleet: Fleet) -> None:
    id = fleet.open("ann", "7g.40gb")
    fleet.plane.place.stop("kube-controller-manager")
    try:
        fleet.close(id)
        answer = fleet.ask(
            "POST", "/sessions", user_id="ann", mig_profile="7g.40gb"
        )  # who has a home already
        assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
    finally:
        fleet.plane.start_manager()
    eventually(lambda: fleet.names("claims") == [], _SECONDS)
    fleet.open("ann", "7g.40gb")


def test_two_replicas_share_the_sessions(fleet: Fleet, postgresql_url: DatabaseUrl, tmp_path: Path) -> None:
    directory = tmp_path / "second"
    directory.mkdir()
    logins = NoSshd(fleet.plane, fleet.site.sessions)
    with gateway_on(fleet.plane, postgresql_url, fleet.site, directory, logins) as second:
        id = fleet.open()
        other = ApiClient(second.gateway.flask)
        assert other.get(f"/sessions/{id}").json["status"] == "active"
        assert [pipe.session_id for pipe in second.pipes.list()] == [id]
        with fleet.host.claim("one that opens"):
            assert second.host.is_claimed("one that opens")
        assert not second.host.is_claimed("one that opens")
        assert other.delete(f"/sessions/{id}").status_code == 204
    assert fleet.ask("GET", f"/sessions/{id}").status_code == 410


def test_creates_at_the_same_time_get_different_slices(fleet: Fleet) -> None:
    answers: list[Any] = []

    def create(number: int) -> None:
        answers.append(fleet.ask("POST", "/sessions", user_id=f"u{number}", mig_profile="1g.5gb"))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_SECONDS)
    assert [answer.status_code for answer in answers] == [201] * 7, [answer.json for answer in answers]
    assert len({row.placement for row in fleet.rows()}) == 7


def _is_running(pod: Object | None) -> bool:
    return pod is not None and (pod.get("status") or {}).get("phase") == "Running"


def _answers(fleet: Fleet) -> bool:
    try:
        fleet.host.api.get(kubernetes_api.PODS, "none", fleet.site.sessions)
        return fleet.names("pods") is not None
    except Exception:  # noqa: BLE001 (it is starting)
        return False
