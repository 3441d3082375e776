"""What every host promises to the services. The same gateway runs over all of them: the services, the
reconciler and the API know only the port.

`unit/test_hosts.py` and `fleet/test_hosts.py` name the hosts.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from gateway.app import Gateway
from gateway.domain.observation import State
from gateway.domain.session_board import session_board
from gateway.domain.states import Reason, Status
from gateway.errors import DockerUnavailable, Unavailable
from gateway.repositories.sql.database import SqlDatabase
from gateway.services.ports import Host, Pipes
from tests.client import AsksApi
from tests.whole_gateway import eventually

_SECONDS = 60  # until an end is reported, on a loaded machine


@dataclass
class Site(AsksApi):
    """A gateway over one host, and what a test does to that host. `seconds` is how long the host may still
    have parts of a session that was deleted: on a cluster, its controllers remove them."""

    gateway: Gateway
    host: Host
    pipes: Pipes
    database: SqlDatabase
    end: Callable[[str], None]
    lose: Callable[[str], None]
    fail: Callable[[DockerUnavailable | None], None]
    seconds: float = 0

    def states(self) -> dict[str, State]:
        with self.database.read() as rows:
            seen = self.host.observe(rows.list())
        return {id: state.state for id, state in seen.states.items()}


class HostPromises:
    """Each host has a subclass and a fixture `site`."""

    def test_a_started_session_has_an_address_a_slice_and_a_route(self, site: Site) -> None:
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

    def test_two_sessions_share_neither_address_nor_slice(self, site: Site) -> None:
        ids = [site.open("ann"), site.open("bob")]
        with site.database.read() as rows:
            held = [(row.address, row.allocation) for row in map(rows.live, ids)]
        assert held[0][0] != held[1][0]
        assert held[0][1] != held[1][1]

    def test_a_full_host_answers_that_there_is_no_room_and_keeps_nothing(self, site: Site) -> None:
        id = site.open("ann", "7g.40gb")
        answer = site.ask("POST", "/sessions", user_id="bob", mig_profile="1g.5gb")
        assert (answer.status_code, answer.json["type"]) == (503, "/problems/no-capacity")
        assert [pipe.session_id for pipe in site.pipes.list()] == [id]
        assert list(site.states()) == [id]

    def test_a_profile_that_the_host_does_not_offer_is_refused(self, site: Site) -> None:
        answer = site.ask("POST", "/sessions", user_id="ann", mig_profile="9g.99gb")
        assert answer.status_code == 422
        assert "3g.20gb" in answer.json["available_profiles"]

    def test_a_deleted_session_gives_everything_back(self, site: Site) -> None:
        id = site.open("ann", "7g.40gb")
        assert site.ask("DELETE", f"/sessions/{id}").status_code == 204
        assert site.pipes.list() == []
        eventually(lambda: site.host.observe([]).held == {}, site.seconds)
        eventually(lambda: all(gpu.instances == () for gpu in site.host.list_gpus()), site.seconds)
        site.open("ann", "7g.40gb")

    def test_stopping_what_is_already_gone_succeeds(self, site: Site) -> None:
        id = site.open()
        with site.database.read() as rows:
            allocation = rows.live(id).allocation
        site.host.stop(id, allocation)
        site.host.stop(id, allocation)
        site.host.forget(id)
        site.host.forget(id)

    def test_a_session_that_ended_by_itself_is_closed_with_the_reason(self, site: Site) -> None:
        id = site.open()
        site.end(id)
        assert site.states() == {id: State.ENDED}
        site.gateway.reaper.reconcile()
        answer = site.ask("GET", f"/sessions/{id}")
        assert (answer.status_code, answer.json["reason"]) == (410, "user_exit")

    def test_a_session_that_somebody_removed_has_failed(self, site: Site) -> None:
        id = site.open()
        site.lose(id)
        assert site.states() == {id: State.GONE}
        site.gateway.reaper.reconcile()
        assert site.ask("GET", f"/sessions/{id}").json["reason"] == "failed"

    def test_a_host_that_does_not_answer_ends_no_session(self, site: Site) -> None:
        id = site.open()
        site.end(id)
        site.fail(DockerUnavailable("It does not answer."))
        assert site.states() == {id: State.UNKNOWN}
        site.gateway.reaper.reconcile()
        assert site.ask("GET", f"/sessions/{id}").status_code == 200
        site.fail(None)
        site.gateway.reaper.reconcile()
        assert site.ask("GET", f"/sessions/{id}").status_code == 410

    def test_a_delete_while_the_host_does_not_answer_is_finished_later(self, site: Site) -> None:
        id = site.open()
        site.fail(DockerUnavailable("It does not answer."))
        assert site.ask("DELETE", f"/sessions/{id}").status_code == 202
        site.fail(None)
        site.gateway.reaper.reconcile()
        assert site.ask("GET", f"/sessions/{id}").json["reason"] == "deleted"

    def test_what_the_host_holds_of_no_session_is_removed(self, site: Site) -> None:
        id = site.open()
        with site.database.begin() as rows:
            row = rows.live(id)
            row.close(Reason.DELETED)
            rows.end(row, row.created_at)
        assert id in site.host.observe([]).held
        site.gateway.reaper.reconcile()
        eventually(lambda: site.host.observe([]).held == {}, site.seconds)
        assert site.pipes.list() == []

    def test_a_claim_is_seen_while_it_is_held(self, site: Site) -> None:
        id = site.open()
        assert site.host.is_claimed(id) is False
        with site.host.claim(id):
            assert site.host.is_claimed(id) is True
            assert site.host.observe([]).claimed[id] is True
        assert site.host.is_claimed(id) is False
        assert not site.host.is_claimed("never-was")

    def test_a_session_that_ends_is_told_to_those_who_follow(self, site: Site) -> None:
        id = site.open()
        endings = site.host.endings()
        reported: list[str] = []
        follower = threading.Thread(target=lambda: reported.extend(endings))
        follower.start()
        site.end(id)
        eventually(lambda: reported, _SECONDS)
        endings.close()
        follower.join(5)
        assert reported == [id]
        assert not follower.is_alive()

    def test_a_host_shows_a_board_once_it_is_asked_to(self, site: Site) -> None:
        id = site.open("carol")  # whose board says nothing of an earlier session
        assert site.ask("POST", f"/sessions/{id}/message", text="hello").status_code == 200
        with site.database.read() as rows:
            row = rows.live(id)
        notices = site.gateway.disk_use.notices
        shown = session_board(row, notices.limit, notices.words, {"Message": "hello"})
        other = session_board(row, notices.limit, notices.words, {"Message": "goodbye"})
        assert not site.host.differing({id: shown})
        assert set(site.host.differing({id: other, "never-was": other})) == {id, "never-was"}
        site.host.show(id, lambda: other)
        assert not site.host.differing({id: other})
        site.host.show(id, lambda: None)
        assert not site.host.differing({id: other})
        site.host.show("never-was", lambda: other)

    def test_what_is_due_before_the_end_is_done_in_the_session(self, site: Site) -> None:
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

    def test_every_part_of_a_host_says_whether_it_is_ready(self, site: Site) -> None:
        before = site.ask("GET", "/readyz").json["parts"]
        assert {name: check() for name, check in site.host.checks().items()}.items() < before.items()
        site.fail(DockerUnavailable("It does not answer."))
        after = site.ask("GET", "/readyz").json["parts"]
        assert [name for name in site.host.checks() if before[name] != after[name]]
