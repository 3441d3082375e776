"""A cluster whose sessions the database does not know."""

import pytest

from gateway.background.prober import Prober
from gateway.domain.recovery import on_a_cluster
from gateway.errors import StartRefused
from gateway.services.recovery import Recovery
from gateway.services.usage import UsageLog
from tests.on_a_cluster import OnCluster, put_an_older_database_back


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
