"""Sessions on a cluster that nobody uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Bench
from tests.on_a_cluster import OnCluster, a_cluster


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
