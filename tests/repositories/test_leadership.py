"""One process at a time leads: by a lock on a file, or by a row in PostgreSQL."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.database_url import DatabaseUrl
from gateway.repositories.sql.leadership import TERM_SECONDS, DatabaseLeadership, FileLeadership
from gateway.services.ports import Leadership

Candidate = Callable[[], Leadership]


@pytest.fixture(params=["file", "postgresql"])
def candidate(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Candidate]:
    """Makes processes that compete for leadership."""
    made: list[FileLeadership | DatabaseLeadership] = []
    url = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else None

    def make() -> Leadership:
        made.append(DatabaseLeadership(url) if url else FileLeadership(tmp_path / "state/reaper.lock"))
        return made[-1]

    yield make
    for one in made:
        end(one)


def end(one: FileLeadership | DatabaseLeadership) -> None:
    one.release()
    if isinstance(one, DatabaseLeadership):
        one.engine.dispose()


def test_one_leads_and_the_others_do_not(candidate: Candidate) -> None:
    first, second = candidate(), candidate()
    assert [first.acquire(), second.acquire()] == [True, False]
    assert [first.held(), second.held()] == [True, False]


def test_every_process_can_read_the_leader_without_becoming_it(candidate: Candidate) -> None:
    first, observer = candidate(), candidate()
    assert observer.leader() is None
    assert first.acquire()
    leader = str(observer.leader())
    assert leader == f"process {os.getpid()}" or leader.startswith(socket.gethostname())
    first.release()
    assert observer.leader() is None


def test_when_the_leader_ends_another_process_leads(candidate: Candidate) -> None:
    first, second = candidate(), candidate()
    assert first.acquire()
    first.release()
    assert not first.held()
    assert second.acquire()
    assert not first.acquire()


def test_every_process_can_read_the_last_tick(candidate: Candidate) -> None:
    leader, other = candidate(), candidate()
    assert other.last_tick() is None or isinstance(leader, FileLeadership)
    leader.acquire()
    leader.tick()
    seen = other.last_tick()
    assert seen is not None
    assert abs(datetime.now(UTC) - seen) < timedelta(seconds=10)


@pytest.fixture
def leadership(postgresql_url: DatabaseUrl) -> Iterator[DatabaseLeadership]:
    leadership = DatabaseLeadership(postgresql_url)
    yield leadership
    end(leadership)


def test_leadership_is_renewed_beyond_its_first_term(leadership: DatabaseLeadership) -> None:
    assert leadership.acquire()
    time.sleep(TERM_SECONDS + 0.2)  # by the clocks of server and kernel, which a test cannot set
    assert leadership.held()


def test_a_leader_notices_that_another_process_leads(leadership: DatabaseLeadership) -> None:
    assert leadership.acquire()
    with leadership.engine.connect() as connection:
        connection.execute(text("UPDATE deployment SET leader = 'another'"))
    deadline = time.monotonic() + TERM_SECONDS
    while leadership.held():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_setting_the_servers_clock_back_does_not_block_leadership(leadership: DatabaseLeadership) -> None:
    with leadership.engine.connect() as connection:
        late = "UPDATE deployment SET leader = 'another', lease_until = now() + interval '2 hours'"
        connection.execute(text(late))
    assert leadership.acquire()
