"""The differences that the doctor reports, and that the reaper then does what the doctor announced."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from gateway.doctor.differences import NOT_OURS, Difference
from gateway.doctor.places import Comparison, Places
from gateway.domain.containers import Deviation
from gateway.domain.leased import OPENING_GRACE
from gateway.domain.mig import MigPolicy, Placement
from gateway.domain.models import Session
from gateway.domain.observation import Place
from gateway.domain.states import Reason
from gateway.errors import (
    DatabaseUnavailable,
    DockerUnavailable,
    DriverUnavailable,
    NetworkOpen,
    PipesUnavailable,
)
from gateway.repositories.files.pipes import Pipes
from gateway.repositories.files.session_files import HostSessionFiles
from gateway.repositories.files.workspaces import HostWorkspaces
from gateway.repositories.host import LocalHost
from tests.conftest import Bench
from tests.fakes.pipe_parts import pipe


def host_of(bench: Bench) -> LocalHost:
    return LocalHost(
        gpus=bench.gpus,
        containers=bench.containers,
        network=bench.network,
        egress=bench.egress,
        workspaces=HostWorkspaces(bench.settings.workspace_root),
        files=files_of(bench),
        subnet=bench.host.subnet,
        mig_policy=bench.host.mig_policy,
    )


def files_of(bench: Bench) -> HostSessionFiles:
    return HostSessionFiles(bench.settings.state_dir / "sessions")


def compare(bench: Bench, policy: MigPolicy = MigPolicy.DYNAMIC, **parts: Any) -> Comparison:
    database = parts.get("database", bench.database)
    return Places(database, host_of(bench), cast(Pipes, bench.pipes), policy, bench.clock).compare()


def shown(bench: Bench) -> list[tuple[str, str, str]]:
    return [(one.place, one.what, one.then) for one in compare(bench).differences]


@contextmanager
def row(bench: Bench, session_id: str) -> Iterator[Session]:
    with bench.database.begin() as rows:
        found = rows.get(session_id)
        assert found
        yield found


@pytest.fixture
def ann(bench: Bench) -> str:
    """The id of a complete session."""
    return str(bench.client.post("/sessions", json={"user_id": "ann"}).json["session_id"])


def lose_container(bench: Bench, id: str) -> None:
    bench.containers.lose(id)


def end_container(bench: Bench, id: str) -> None:
    bench.containers.end(id)


def lose_slice(bench: Bench, id: str) -> None:
    with row(bench, id) as session:
        assert session.gpu
        assert session.placement
        bench.gpus.destroy(session.gpu, session.mig_profile, session.placement)


def lose_route(bench: Bench, id: str) -> None:
    bench.pipes.remove(id)


def change_route(bench: Bench, id: str) -> None:
    bench.pipes.add(replace(bench.pipes.list()[0], host="10.0.0.1"))


def revoke_keys(bench: Bench, id: str) -> None:
    with row(bench, id) as session:
        session.public_keys = []


def owe_a_disconnect(bench: Bench, id: str) -> None:
    with row(bench, id) as session:
        session.disconnect_due = True


def leave_pending(bench: Bench, id: str) -> None:
    """Leave the row as an opener that is killed does."""
    with bench.database.engine.begin() as connection:
        pending = "UPDATE sessions SET status = 'pending', container_id = NULL WHERE id = ?"
        connection.exec_driver_sql(pending, (id,))


def leave_closing(bench: Bench, id: str) -> None:
    with row(bench, id) as session:
        session.close(Reason.DELETED)
        session.problem = "Docker is out of reach."


def mark(bench: Bench, id: str) -> None:
    with row(bench, id) as session:
        session.problem = "GPU 0 is out of order: on fire."


BROKEN: list[tuple[Callable[[Bench, str], None], tuple[str, str, str]]] = [
    (lose_container, ("Docker", "no container", "the session is closed (failed) at the next tick")),
    (
        end_container,
        ("Docker", "its container has ended", "the session is closed (user_exit) at the next tick"),
    ),
    (
        lose_slice,
        ("GPU driver", "its 1g.5gb on GPU 0 is gone", "the session is closed (gpu_lost) at the next tick"),
    ),
    (lose_route, ("pipe file", "no route", "published at the next tick")),
    (change_route, ("pipe file", "the route differs from the record", "published again at the next tick")),
    (revoke_keys, ("pipe file", "a route although no key is accepted", "removed at the next tick")),
    (
        owe_a_disconnect,
        ("database", "connections of a revoked key are still open", "closed at the next tick"),
    ),
    (
        leave_pending,
        (
            "database",
            "pending, and the process that opened it is dead",
            "the session is closed at the next tick",
        ),
    ),
    (
        leave_closing,
        (
            "database",
            "closing (deleted): Docker is out of reach.",
            "the closing is completed at the next tick",
        ),
    ),
    (
        mark,
        (
            "database",
            "the session has recovered but is still marked: GPU 0 is out of order: on fire.",
            "the mark is removed at the next tick",
        ),
    ),
]


def test_a_complete_session_has_no_difference(bench: Bench, ann: str) -> None:
    assert compare(bench) == Comparison(1, [], [], {})


@pytest.mark.parametrize(("break_it", "expected"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_each_difference_is_reported_once_and_repaired_at_the_next_tick(
    bench: Bench, ann: str, break_it: Callable[[Bench, str], None], expected: tuple[str, str, str]
) -> None:
    break_it(bench, ann)
    [difference] = compare(bench).differences
    assert (difference.place, difference.what, difference.then) == expected
    assert (difference.session_id, difference.user_id) == (ann, "ann")
    bench.gateway.reaper.reconcile()
    assert compare(bench).differences == []


def test_a_container_that_deviates_is_reported_and_what_can_be_repaired_is(bench: Bench, ann: str) -> None:
    elsewhere = Deviation("it is connected to the network bridge", is_repairable=True)
    bench.containers.deviate(ann, elsewhere, Deviation("its container is paused"))
    marked = "the session stays open; it is only marked"
    assert [(one.place, one.what, one.then) for one in compare(bench).differences] == [
        ("Docker", elsewhere.what, "repaired at the next tick"),
        ("Docker", "its container is paused", marked),
    ]
    bench.gateway.reaper.reconcile()
    assert [one.what for one in compare(bench).differences] == ["its container is paused"]


def test_a_network_that_is_open_is_a_difference_of_each_session(bench: Bench, ann: str) -> None:
    bench.network.failure = NetworkOpen("The sessions' network is open.")
    assert [(one.what, one.session_id) for one in compare(bench).differences] == [
        ("The sessions' network is open.", ann)
    ]


def test_an_expired_lease_is_reported_until_the_session_is_closed(bench: Bench, ann: str) -> None:
    bench.clock.advance(minutes=60)
    [difference] = compare(bench).differences
    assert "the lease ended" in difference.what
    assert difference.then == "the session is closed (expired) at the next tick"
    bench.gateway.reaper.reap()
    assert compare(bench) == Comparison(0, [], [], {})


def test_leftovers_are_reported_by_place_and_removed(bench: Bench, ann: str) -> None:
    with bench.database.begin() as rows:
        lost = rows.get(ann)
        assert lost
        lost.close(Reason.DELETED)
        rows.end(lost, bench.clock.now)
    removed = "removed at the next tick"
    found = compare(bench)
    assert found.differences == [
        Difference(Place.DOCKER, "a container without a session", removed, ann),
        Difference(Place.FILES, "files without a session", removed, ann),
        Difference(Place.PIPES, "a route without a session", removed, ann, "ann"),
    ]
    assert found.others == [], "the container names its slice, which goes with it"
    bench.gateway.reaper.reconcile()
    assert compare(bench) == Comparison(0, [], [], {})
    assert bench.instances() == []


def test_idle_instances_are_expected_if_the_administrator_makes_them(bench: Bench) -> None:
    gpu = bench.gpus.list()[0]
    bench.gpus.create(gpu.uuid, "3g.20gb", Placement(4, 4))
    assert compare(bench, MigPolicy.STATIC).others == []
    [foreign] = compare(bench).others
    assert foreign.what == "a 3g.20gb at memory slices 4-7 of GPU 0 that belongs to no session"


def test_a_faulty_gpu_closes_no_session(bench: Bench, ann: str) -> None:
    bench.gpus.set_fault(bench.gpus.list()[0].uuid, "on fire")
    for _ in range(2):
        [(place, what, then)] = shown(bench)
        assert (place, what) == ("GPU driver", "GPU 0 is out of order: on fire.")
        assert then == "the session stays open; it is only marked"
        bench.gateway.reaper.reconcile()


def test_a_hand_written_pipe_above_a_sessions_is_reported_and_kept(bench: Bench, ann: str) -> None:
    bench.pipes._handwritten.add("ann")
    assert shown(bench) == [("pipe file", "a hand-written pipe routes this user elsewhere", NOT_OURS)]


def test_missing_files_are_reported_and_not_repaired(bench: Bench, ann: str) -> None:
    files_of(bench).remove(ann)
    [(place, _, then)] = shown(bench)
    assert (place, then) == ("session files", "not repaired: delete the session")


def test_a_session_that_is_being_opened_is_no_difference(bench: Bench, ann: str) -> None:
    leave_pending(bench, ann)
    with files_of(bench).claim(ann):
        assert shown(bench) == []


def test_a_session_with_an_unknown_opener_is_kept_for_the_grace_period(bench: Bench, ann: str) -> None:
    leave_pending(bench, ann)
    files_of(bench).remove(ann)
    until = bench.clock.now + OPENING_GRACE
    [(_, what, then)] = shown(bench)
    assert (what, then) == (
        "pending; it is unknown whether the process that opens it is alive",
        f"kept until {until:%H:%M:%S} UTC",
    )
    bench.clock.advance(minutes=5, seconds=1)
    assert [then for _, _, then in shown(bench)] == ["the session is closed at the next tick"]


@pytest.mark.parametrize(
    ("part", "verb", "error", "place"),
    [
        ("containers", "list", DockerUnavailable("Docker is out of reach."), Place.DOCKER),
        ("gpus", "list", DriverUnavailable("no driver"), Place.DRIVER),
        ("pipes", "list", PipesUnavailable("open to others"), Place.PIPES),
    ],
)
def test_a_place_that_cannot_be_read_is_reported_and_not_treated_as_empty(
    bench: Bench, ann: str, part: str, verb: str, error: Exception, place: Place
) -> None:
    getattr(bench, part).fail(verb, error)
    assert compare(bench) == Comparison(1, [], [], {place: str(error)})


def test_a_lost_instance_closes_its_session_once_docker_answers(bench: Bench, ann: str) -> None:
    lose_slice(bench, ann)
    bench.containers.fail("list", DockerUnavailable("Docker is out of reach."))
    assert shown(bench) == [
        ("GPU driver", "its 1g.5gb on GPU 0 is gone", "the session is closed once Docker answers")
    ]


def test_session_files_that_cannot_be_listed_are_reported(
    bench: Bench, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Any) -> None:
        raise PermissionError(13, "Permission denied", "/state/sessions")

    monkeypatch.setattr(HostSessionFiles, "list", refuse)
    assert compare(bench).unseen == {Place.FILES: "Permission denied: /state/sessions"}


class DeadDatabase:
    def read(self) -> Any:
        raise DatabaseUnavailable("The session database did not answer.")


def test_without_the_rows_nothing_is_compared(bench: Bench, ann: str) -> None:
    found = compare(bench, database=DeadDatabase())
    assert found == Comparison(None, (), (), {Place.DATABASE: "The session database did not answer."})


def test_changes_by_a_running_gateway_are_no_differences(
    bench: Bench, ann: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = bench.containers.list

    def list_while_others_work() -> Any:
        monkeypatch.undo()
        bench.client.delete(f"/sessions/{ann}")
        bench.client.post("/sessions", json={"user_id": "bob"})
        return listed()

    monkeypatch.setattr(bench.containers, "list", list_while_others_work)
    assert compare(bench) == Comparison(1, [], [], {})


def test_a_route_without_a_session_is_reported_with_its_user(bench: Bench) -> None:
    bench.pipes.add(pipe("never", "eve"))
    [difference] = compare(bench).differences
    assert (difference.session_id, difference.user_id) == ("never", "eve")
