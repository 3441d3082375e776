"""Reads over all live sessions: they agree with the rules on single rows, and load no whole row."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import event

from gateway.domain.lease import Extension
from gateway.domain.live_session import SessionSlice
from gateway.domain.models import Session
from gateway.domain.states import Reason, Status
from gateway.domain.warnings import WarningPlan
from tests.conftest import Bench, BenchMaker
from tests.fakes.gpus import FakeGpus

MINUTES = (4, 9, 10, 25, 60, 61, 90)
PLAN = WarningPlan((30, 10, 2), timedelta(seconds=30))


@pytest.fixture
def bench(bench_of: BenchMaker, public_key: str) -> Bench:
    made = bench_of(FakeGpus(["A100-40GB"]))
    for minutes in MINUTES:
        made.sessions.open(f"user{minutes}", timedelta(minutes=minutes), "1g.5gb", [public_key])
    return made


@contextmanager
def loaded() -> Iterator[list[Session]]:
    """The whole rows that are loaded in the block."""
    found: list[Session] = []

    def note(session: Session, _context: object) -> None:
        found.append(session)

    event.listen(Session, "load", note)
    try:
        yield found
    finally:
        event.remove(Session, "load", note)


@pytest.mark.parametrize("elapsed", [0, 1.5, 3.6, 5, 8, 15, 30, 33, 50.5, 59.6, 70])
def test_the_steps_that_are_due_are_those_of_the_rule(bench: Bench, elapsed: float) -> None:
    bench.clock.advance(minutes=elapsed)
    now = bench.clock()
    with bench.database.read() as rows:
        due = {session.id for session in rows.list() if PLAN.due(session, now)}
        found = {session.id for session in rows.to_warn(now, PLAN) if PLAN.due(session, now)}
        unneeded = [each for each in rows.to_warn(now, PLAN) if each.id not in due]
    assert found == due
    assert all(session.time_left(now) <= timedelta() for session in unneeded)


def test_a_step_that_was_done_loads_no_row_again(bench: Bench) -> None:
    bench.clock.advance(minutes=31)
    bench.warn()
    with loaded() as rows:
        assert bench.warnings.due() == []
    assert [row for row in rows if row.time_left(bench.clock()) > timedelta()] == []


def test_columns_and_rows_say_the_same(bench: Bench) -> None:
    bench.clock.advance(minutes=5)
    now = bench.clock()
    with bench.database.read() as rows:
        pairs = list(zip(rows.live_sessions(), rows.list(), strict=True))
        assert rows.pipes() == [row.pipe for _, row in pairs if row.status == Status.ACTIVE]
    for columns, row in pairs:
        assert (columns.id, columns.allocation, columns.named) == (row.id, row.allocation, row.named)
        assert (columns.lease, columns.time_left(now), columns.age(now), columns.ends_at(now)) == (
            row.lease,
            row.time_left(now),
            row.age(now),
            row.ends_at(now),
        )


def test_nothing_that_happens_often_loads_the_rows_of_all(bench: Bench, public_key: str) -> None:
    with loaded() as rows:
        bench.sessions.close(_id_of(bench, "user90"))
    assert {row.user_id for row in rows} == {"user90"}
    with loaded() as rows:
        bench.sessions.open("another", timedelta(minutes=30), "1g.5gb", [public_key])
    assert {row.user_id for row in rows} <= {"another"}
    with loaded() as rows:
        bench.leases.extend(_id_of(bench, "user61"), Extension(timedelta(minutes=1)))
    assert {row.user_id for row in rows} == {"user61"}
    with loaded() as rows:
        bench.gateway.reaper.reap()
        bench.reconciler.reconcile()
    assert rows == []


def test_a_create_reads_of_other_sessions_only_what_planning_needs(bench: Bench, public_key: str) -> None:
    def create(user_id: str) -> tuple[int, list[int]]:
        with statements(bench) as made:
            bench.sessions.open(user_id, timedelta(minutes=30), "1g.5gb", [public_key])
        over_all = [text for text in made if " FROM sessions" in text and " WHERE" not in text]
        return len(made), [text.partition(" FROM ")[0].count(", ") + 1 for text in over_all]

    bench.sessions.close(_id_of(bench, "user90"))
    among_six = create("another")
    for minutes in MINUTES:
        if minutes != 90:
            bench.sessions.close(_id_of(bench, f"user{minutes}"))
    among_one = create("a-third")
    assert among_six == among_one
    assert among_six[1] == [len(SessionSlice._fields) + 2]  # `placement` and `ends_at` are two columns each


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("set_by", [0, 3])
def test_planning_sees_the_same_lease_as_everybody_else(bench: Bench, closes: bool, set_by: int) -> None:
    bench.clock.advance(minutes=5)
    bench.clock.jump(hours=set_by)
    now = bench.clock()
    with bench.database.begin() as rows:
        for row in rows.list() if closes else ():
            bench.gateway.sessions.closing.begin(rows, row, Reason.DELETED)
        by_id = {each.id: each for each in rows.slices(now)}
        assert by_id == {each.id: each.slice(now) for each in rows.live_sessions()}
        assert len(by_id) == len(MINUTES)
        for row in rows.list():
            assert by_id[row.id].placement == row.placement
            assert by_id[row.id].ends_at == (min(row.ends_at(now), now.wall) if closes else row.ends_at(now))


@contextmanager
def statements(bench: Bench) -> Iterator[list[str]]:
    """The SQL of the statements in the block, on one line each."""
    made: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        made.append(" ".join(statement.split()))

    event.listen(bench.database.engine, "before_cursor_execute", note)
    try:
        yield made
    finally:
        event.remove(bench.database.engine, "before_cursor_execute", note)


def _id_of(bench: Bench, user_id: str) -> str:
    with bench.database.read() as rows:
        return next(session.id for session in rows.live_sessions() if session.user_id == user_id)
