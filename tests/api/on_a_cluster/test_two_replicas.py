"""Two replicas of the gateway on one cluster in memory: PostgreSQL, its locks and the wall clock are all they
share."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway import failpoints
from gateway.app import Gateway, Parts, assemble
from gateway.app.cluster import notices_over, parts_over
from gateway.database_url import DatabaseUrl
from gateway.domain import clock
from gateway.domain.uids import UidRange
from gateway.repositories.kubernetes.cluster import ClusterHost
from gateway.repositories.sql.advisory import AdvisoryLocks
from gateway.repositories.sql.database import SqlDatabase
from gateway.settings import Settings
from tests.client import ApiClient
from tests.fakes.cluster import FakeCluster, FakeLogins
from tests.fakes.cluster_host import SITE
from tests.fakes.dying import dying_at
from tests.fakes.gpus import FakeGpus

_SECONDS = 60


@dataclass
class Replica:
    gateway: Gateway
    host: ClusterHost
    database: SqlDatabase
    locks: AdvisoryLocks

    def ask(self, method: str, path: str, **body: Any) -> Any:
        return ApiClient(self.gateway.flask).open(path, method=method, json=body or None)

    def open(self, user_id: str = "ann") -> Any:
        return self.ask("POST", "/sessions", user_id=user_id, mig_profile="3g.20gb")

    def end(self) -> None:
        self.locks.close()
        self.database.engine.dispose()


@dataclass
class Pair:
    first: Replica
    second: Replica
    cluster: FakeCluster

    def left(self) -> list[str]:
        """What there is of sessions, without the homes."""
        return [
            name
            for kind in ("pods", "secrets", "resourceclaims", "pipes")
            for name in self.cluster.api.names(kind)
        ]


@pytest.fixture
def pair(postgresql_url: DatabaseUrl, tmp_path: Path) -> Iterator[Pair]:
    cluster = FakeCluster(FakeGpus(["A100-40GB"]).list())

    def replica(name: str) -> Replica:
        settings = Settings(db=postgresql_url, state_dir=tmp_path / name, ssh_host="ssh.gw")
        database, locks = SqlDatabase(postgresql_url), AdvisoryLocks(postgresql_url)
        logins, api = FakeLogins(cluster), cluster.api.api
        host, pipes = parts_over(
            database, api, SITE, logins, locks, start_timeout_seconds=_SECONDS, uid_range=UidRange()
        )
        parts = Parts(database, host, pipes, notices_over(database, api, SITE, locks), clock.shared)
        return Replica(assemble(settings, parts), host, database, locks)

    first, second = replica("first"), replica("second")
    yield Pair(first, second, cluster)
    failpoints.arm("")
    first.end()
    second.end()


def test_what_one_opens_the_other_extends_and_closes(pair: Pair) -> None:
    opened = pair.first.open().json
    path = f"/sessions/{opened['session_id']}"
    assert pair.second.ask("GET", path).json["expires_at"] == opened["expires_at"]
    extended = pair.second.ask("POST", f"{path}/extend", minutes=30)
    assert extended.status_code == 200, extended.json
    assert pair.first.ask("GET", path).json["expires_at"] == extended.json["expires_at"]
    assert pair.second.ask("DELETE", path).status_code == 204
    assert pair.first.ask("GET", path).status_code == 410
    assert pair.left() == []


def test_a_user_gets_one_session_from_both(pair: Pair) -> None:
    assert pair.first.open().status_code == 201
    assert pair.second.open().status_code == 409


def test_what_one_opens_now_the_other_leaves_alone(pair: Pair) -> None:
    """The scheduler makes the first replica wait; the second one is the leader."""
    pair.cluster.is_scheduling = False
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(pair.first.open()))
    thread.start()
    _until(lambda: pair.cluster.api.names("pods") != [])
    pair.second.gateway.reaper.reconcile()
    assert len(pair.cluster.api.names("pods")) == 1
    pair.cluster.is_scheduling = True
    pair.cluster.go_on()
    thread.join(_SECONDS)
    assert answers[0].status_code == 201, answers[0].json


@pytest.mark.parametrize("place", failpoints.CLUSTER_CREATE)
def test_what_a_dead_replica_was_opening_the_other_removes_at_once(pair: Pair, place: str) -> None:
    with dying_at(place):
        pair.first.gateway.sessions.open("ann", mig_profile="3g.20gb")
    pair.first.locks.close()  # as PostgreSQL does for a process that is gone
    pair.second.gateway.reaper.reconcile()
    assert pair.left() == []
    assert pair.cluster.allocated() == []
    assert pair.second.open().status_code == 201


def test_both_write_the_same_board_and_neither_takes_it_for_old(pair: Pair) -> None:
    id = pair.first.open().json["session_id"]
    pair.second.ask("POST", f"/sessions/{id}/message", text="hello")
    pair.cluster.api.requests.clear()
    pair.first.gateway.reaper.reconcile()
    pair.second.gateway.reaper.reconcile()
    assert "PATCH secrets" not in pair.cluster.api.requests
    pair.first.ask("POST", f"/sessions/{id}/message", text="goodbye")
    pair.cluster.api.requests.clear()
    pair.second.gateway.reaper.reconcile()
    assert "PATCH secrets" not in pair.cluster.api.requests


def _until(is_so: Any) -> None:
    deadline = time.monotonic() + _SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
