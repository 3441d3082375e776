"""Sessions whose opener was killed before they were active."""

from datetime import timedelta

import pytest
from pytest_mock import MockerFixture

from gateway.domain.states import Status
from gateway.errors import DatabaseUnavailable, NoCapacity
from tests.conftest import NOTHING, Bench

ENDING = "gateway.repositories.sql.rows.SessionRows.end"


@pytest.fixture
def abandoned(bench: Bench) -> str:
    """The id of a session whose opener was killed: a pending row, and a claim that no process holds."""
    opened = bench.sessions.open("user123", timedelta(hours=1)).session
    bench.containers.lose(opened.id)
    with bench.database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sessions SET status = 'pending', container_id = NULL")
    return opened.id


def test_a_client_can_delete_it_at_once(bench: Bench, abandoned: str) -> None:
    assert bench.sessions.close(abandoned) is True
    assert bench.leftovers() == NOTHING


def test_the_next_tick_completes_a_deletion_that_failed_at_the_last_step(
    bench: Bench, abandoned: str, mocker: MockerFixture
) -> None:
    broken = mocker.patch(ENDING, side_effect=DatabaseUnavailable("The database does not answer."))
    assert bench.sessions.close(abandoned) is False
    mocker.stop(broken)
    bench.reconciler.reconcile()
    assert bench.leftovers() == NOTHING


def test_the_next_tick_keeps_a_session_that_became_active_meanwhile(
    bench: Bench, abandoned: str, mocker: MockerFixture
) -> None:
    """Its opener was slow, not dead. The current row decides."""
    gpus = bench.gpus.list

    def activate_meanwhile() -> object:
        with bench.database.begin() as rows:
            session = rows.get(abandoned)
            assert session
            session.status, session.container_id = Status.ACTIVE, "c"
        return gpus()

    mocker.patch.object(bench.gpus, "list", side_effect=activate_meanwhile)
    bench.reconciler.reconcile()
    [session] = bench.sessions.list()
    assert session.status == Status.ACTIVE


def test_a_refused_session_leaves_no_files(bench: Bench) -> None:
    bench.sessions.open("user123", timedelta(hours=1), "7g.40gb")
    with pytest.raises(NoCapacity):
        bench.sessions.open("user456", timedelta(hours=1))
    assert len(bench.leftovers()["files"]) == 1
