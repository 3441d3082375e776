"""One process at a time leads: by a lock on a file, or by a lease in PostgreSQL."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.database_url import DatabaseUrl
from gateway.repositories.sql.leadership import LEASE_SECONDS, DatabaseLease, FileLock
from gateway.services.ports import Leadership

Candidate = Callable[[], Leadership]


@pytest.fixture(params=["file", "postgresql"])
def candidate(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Candidate]:
    """Makes one of those that want to lead."""
    made: list[FileLock | DatabaseLease] = []
    url = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else None

    def make() -> Leadership:
        made.append(DatabaseLease(url) if url else FileLock(tmp_path / "state/reaper.lock"))
        return made[-1]

    yield make
    for one in made:
        end(one)


def end(one: FileLock | DatabaseLease) -> None:
    one.release()
    if isinstance(one, DatabaseLease):
        one.engine.dispose()


def test_one_leads_and_the_others_do_not(candidate: Candidate) -> None:
    first, second = candidate(), candidate()
    assert [first.acquire(), second.acquire()] == [True, False]
    assert [first.held(), second.held()] == [True, False]


def test_everybody_can_see_who_leads_and_nobody_leads_by_looking(candidate: Candidate) -> None:
    first, onlooker = candidate(), candidate()
    assert onlooker.leader() is None
    assert first.acquire()
    leader = str(onlooker.leader())
    assert leader == f"process {os.getpid()}" or leader.startswith(socket.gethostname())
    first.release()
    assert onlooker.leader() is None


def test_when_the_leader_goes_another_leads(candidate: Candidate) -> None:
    first, second = candidate(), candidate()
    assert first.acquire()
    first.release()
    assert not first.held()
    assert second.acquire()
    assert not first.acquire()


def test_all_know_when_the_leader_last_looked(candidate: Candidate) -> None:
    leader, other = candidate(), candidate()
    assert other.last_tick() is None or isinstance(leader, FileLock)
    leader.acquire()
    leader.tick()
    seen = other.last_tick()
    assert seen is not None
    assert abs(datetime.now(UTC) - seen) < timedelta(seconds=10)


@pytest.fixture
def lease(postgresql_url: DatabaseUrl) -> Iterator[DatabaseLease]:
    lease = DatabaseLease(postgresql_url)
    yield lease
    end(lease)


def test_a_lease_is_held_for_longer_than_it_was_given(lease: DatabaseLease) -> None:
    assert lease.acquire()
    time.sleep(LEASE_SECONDS + 0.2)  # on the server's clock and on the kernel's, neither of which is ours
    assert lease.held()


def test_whose_lease_was_taken_over_knows_it(lease: DatabaseLease) -> None:
    assert lease.acquire()
    with lease.engine.connect() as connection:
        connection.execute(text("UPDATE deployment SET leader = 'another'"))
    deadline = time.monotonic() + LEASE_SECONDS
    while lease.held():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_clock_of_the_server_that_was_set_back_keeps_nobody_waiting(lease: DatabaseLease) -> None:
    with lease.engine.connect() as connection:
        late = "UPDATE deployment SET leader = 'another', lease_until = now() + interval '2 hours'"
        connection.execute(text(late))
    assert lease.acquire()
