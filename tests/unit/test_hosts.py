"""What every host promises to the services, shown on the local host over fakes, on a host in memory, and on a
cluster in memory.

The same gateway runs over all of them: the services, the reconciler and the API know only the port.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway, Parts, assemble
from gateway.domain.board import board
from gateway.domain.observation import State
from gateway.domain.states import Reason, Status
from gateway.errors import DockerUnavailable, Unavailable
from gateway.repositories.sql.database import SqlDatabase
from gateway.services.ports import Host, Pipes
from tests.client import ApiClient
from tests.conftest import Bench, beside
from tests.fakes.cluster_host import cluster_parts
from tests.fakes.host import MemoryHost
from tests.fakes.notices import FakeNotices
from tests.fakes.pipes import FakePipes


@dataclass
class Site:
    """A gateway over one host, and what a test does to that host."""

    gateway: Gateway
    host: Host
    pipes: Pipes
    database: SqlDatabase
    end: Callable[[str], None]
    lose: Callable[[str], None]
    fail: Callable[[DockerUnavailable | None], None]

    def open(self, user_id: str = "ann", profile: str = "3g.20gb") -> str:
        answer = ApiClient(self.gateway.flask).post(
            "/sessions", json={"user_id": user_id, "mig_profile": profile}
        )
        assert answer.status_code == 201, answer.json
        return str(answer.json["session_id"])

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        return ApiClient(self.gateway.flask).open(path, method=method, json=body)

    def states(self) -> dict[str, State]:
        with self.database.read() as rows:
            seen = self.host.observe(rows.list())
        return {id: state.state for id, state in seen.states.items()}


def local_site(bench: Bench) -> Site:
    def fail(error: DockerUnavailable | None) -> None:
        for verb in ("list", "run", "remove", "up_since", "disconnect", "run_inside"):
            bench.containers.fail(verb, error)

    return Site(
        bench.gateway,
        bench.host,
        bench.pipes,
        bench.database,
        bench.containers.end,
        bench.containers.lose,
        fail,
    )


@pytest.fixture
def memory_site(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[Site]:
    host, pipes = MemoryHost(), FakePipes()

    def fail(error: DockerUnavailable | None) -> None:
        host.failure = error

    settings, database = beside(bench, tmp_path / "memory", empty_database)
    gateway = assemble(settings, Parts(database, host, pipes, FakeNotices(), bench.clock))
    yield Site(gateway, host, pipes, database, lambda id: host.end(id, Reason.USER_EXIT), host.lose, fail)
    database.engine.dispose()


@pytest.fixture
def cluster_site(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[Site]:
    settings, database = beside(bench, tmp_path / "cluster", empty_database)
    parts = cluster_parts(database)

    def fail(error: DockerUnavailable | None) -> None:
        parts.cluster.api.is_down = error is not None

    gateway = assemble(settings, Parts(database, parts.host, parts.pipes, parts.notices, bench.clock))
    yield Site(gateway, parts.host, parts.pipes, database, parts.cluster.end, parts.cluster.lose, fail)
    database.engine.dispose()


@pytest.fixture(params=["local", "memory", "cluster"])
def site(request: pytest.FixtureRequest, bench: Bench) -> Site:
    if request.param == "local":
        return local_site(bench)
    found: Site = request.getfixturevalue(f"{request.param}_site")
    return found


def test_a_started_session_has_an_address_a_slice_and_a_route(site: Site) -> None:
    id = site.open()
    with site.database.read() as rows:
        row = rows.live(id)
    assert (row.status, row.mig_profile) == (Status.ACTIVE, "3g.20gb")
    assert row.address
    assert row.allocation
    assert row.allocation.mig_uuid == row.gpu_uuid
    [pipe] = site.pipes.list()
    assert (pipe.session_id, pipe.host, pipe.username) == (id, row.address, "ann")
    assert site.states() == {id: State.RUNNING}


def test_two_sessions_share_neither_address_nor_slice(site: Site) -> None:
    ids = [site.open("ann"), site.open("bob")]
    with site.database.read() as rows:
        held = [(row.address, row.allocation) for row in map(rows.live, ids)]
    assert held[0][0] != held[1][0]
    assert held[0][1] != held[1][1]


def test_a_full_host_answers_that_there_is_no_room_and_keeps_nothing(site: Site) -> None:
    id = site.open("ann", "7g.40gb")
    answer = ApiClient(site.gateway.flask).post("/sessions", json={"user_id": "bob", "mig_profile": "1g.5gb"})
    assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
    assert [pipe.session_id for pipe in site.pipes.list()] == [id]
    assert list(site.states()) == [id]


def test_a_profile_that_the_host_does_not_offer_is_refused(site: Site) -> None:
    answer = ApiClient(site.gateway.flask).post(
        "/sessions", json={"user_id": "ann", "mig_profile": "9g.99gb"}
    )
    assert answer.status_code == 422
    assert "3g.20gb" in answer.json["available_profiles"]


def test_a_deleted_session_gives_everything_back(site: Site) -> None:
    id = site.open("ann", "7g.40gb")
    assert site.ask("DELETE", f"/sessions/{id}").status_code == 204
    assert site.pipes.list() == []
    assert site.host.observe([]).held == {}
    assert all(gpu.instances == () for gpu in site.host.list_gpus())
    site.open("ann", "7g.40gb")


def test_stopping_what_is_already_gone_succeeds(site: Site) -> None:
    id = site.open()
    with site.database.read() as rows:
        allocation = rows.live(id).allocation
    site.host.stop(id, allocation)
    site.host.stop(id, allocation)
    site.host.forget(id)
    site.host.forget(id)


def test_a_session_that_ended_by_itself_is_closed_with_the_reason(site: Site) -> None:
    id = site.open()
    site.end(id)
    assert site.states() == {id: State.ENDED}
    site.gateway.reaper.reconcile()
    answer = site.ask("GET", f"/sessions/{id}")
    assert (answer.status_code, answer.json["reason"]) == (410, "user_exit")


def test_a_session_that_somebody_removed_has_failed(site: Site) -> None:
    id = site.open()
    site.lose(id)
    assert site.states() == {id: State.GONE}
    site.gateway.reaper.reconcile()
    assert site.ask("GET", f"/sessions/{id}").json["reason"] == "failed"


def test_a_host_that_does_not_answer_ends_no_session(site: Site) -> None:
    id = site.open()
    site.end(id)
    site.fail(DockerUnavailable("It does not answer."))
    assert site.states() == {id: State.UNKNOWN}
    site.gateway.reaper.reconcile()
    assert site.ask("GET", f"/sessions/{id}").status_code == 200
    site.fail(None)
    site.gateway.reaper.reconcile()
    assert site.ask("GET", f"/sessions/{id}").status_code == 410


def test_a_delete_while_the_host_does_not_answer_is_finished_later(site: Site) -> None:
    id = site.open()
    site.fail(DockerUnavailable("It does not answer."))
    assert site.ask("DELETE", f"/sessions/{id}").status_code == 202
    site.fail(None)
    site.gateway.reaper.reconcile()
    assert site.ask("GET", f"/sessions/{id}").json["reason"] == "deleted"


def test_what_the_host_holds_of_no_session_is_removed(site: Site) -> None:
    id = site.open()
    with site.database.begin() as rows:
        row = rows.live(id)
        row.close(Reason.DELETED)
        rows.end(row, row.created_at)
    assert id in site.host.observe([]).held
    site.gateway.reaper.reconcile()
    assert site.host.observe([]).held == {}
    assert site.pipes.list() == []


def test_a_claim_is_seen_while_it_is_held(site: Site) -> None:
    id = site.open()
    assert site.host.is_claimed(id) is False
    with site.host.claim(id):
        assert site.host.is_claimed(id) is True
        assert site.host.observe([]).claimed[id] is True
    assert site.host.is_claimed(id) is False
    assert not site.host.is_claimed("never-was")


def test_a_session_that_ends_is_told_to_those_who_follow(site: Site) -> None:
    id = site.open()
    endings = site.host.endings()
    told: list[str] = []
    follower = threading.Thread(target=lambda: told.extend(endings))
    follower.start()
    site.end(id)
    while not told:
        follower.join(0.01)
    endings.close()
    follower.join(5)
    assert told == [id]
    assert not follower.is_alive()


def test_a_host_shows_a_board_once_it_is_asked_to(site: Site) -> None:
    id = site.open()
    site.ask("POST", f"/sessions/{id}/message", {"text": "hello"})
    with site.database.read() as rows:
        row = rows.live(id)
    notices = site.gateway.disk_use.notices
    shown = board(row, notices.limit, notices.words, {"Message": "hello"})
    other = board(row, notices.limit, notices.words, {"Message": "goodbye"})
    assert not site.host.differing({id: shown})
    assert set(site.host.differing({id: other, "never-was": other})) == {id, "never-was"}
    site.host.show(id, lambda: other)
    assert not site.host.differing({id: other})
    site.host.show(id, lambda: None)
    assert not site.host.differing({id: other})
    site.host.show("never-was", lambda: other)


def test_what_is_due_before_the_end_is_done_in_the_session(site: Site) -> None:
    id = site.open()
    with site.database.read() as rows:
        row = rows.live(id)
    assert site.host.tell(row, "hello") == 0
    assert site.host.run_hook(row, 300) is False
    assert site.host.signal(row) == 0
    site.fail(DockerUnavailable("It does not answer."))
    with pytest.raises(Unavailable):
        site.host.tell(row, "hello")
    with pytest.raises(Unavailable):
        site.host.run_hook(row, 300)
    with pytest.raises(Unavailable):
        site.host.signal(row)


def test_every_part_of_a_host_says_whether_it_is_ready(site: Site) -> None:
    answer = site.ask("GET", "/readyz")
    assert set(site.host.checks()) < set(answer.json["parts"])
    site.fail(DockerUnavailable("It does not answer."))
    if isinstance(site.host, MemoryHost):
        assert site.ask("GET", "/readyz").status_code == 503
