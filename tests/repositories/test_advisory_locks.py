import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from gateway.database_url import DatabaseUrl
from gateway.errors import Unavailable
from gateway.repositories.sql.advisory import AdvisoryLocks
from gateway.repositories.sql.database import make_engine


@pytest.fixture
def here(postgresql_url: DatabaseUrl) -> Iterator[AdvisoryLocks]:
    locks = AdvisoryLocks(postgresql_url)
    yield locks
    locks.close()


@pytest.fixture
def there(postgresql_url: DatabaseUrl) -> Iterator[AdvisoryLocks]:
    """Those of another process."""
    locks = AdvisoryLocks(postgresql_url)
    yield locks
    locks.close()


def test_a_lock_is_seen_by_every_process_while_it_is_held(here: AdvisoryLocks, there: AdvisoryLocks) -> None:
    with here.hold("a"), here.hold("b"):
        assert there.held(["a", "b", "c"]) == {"a", "b"}
        assert here.held(["a", "c"]) == {"a"}
    assert there.held(["a", "b"]) == set()


def test_the_connection_of_a_lock_is_not_idle_in_a_transaction(
    postgresql_url: DatabaseUrl, here: AdvisoryLocks
) -> None:
    """PostgreSQL closes such a connection after seconds, and the lock is lost while its holder works."""
    states = text("SELECT state FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try_advisory_lock%'")
    engine = make_engine(postgresql_url)
    with here.hold("a"), engine.connect() as other:
        assert other.scalars(states).all() == ["idle"]
    engine.dispose()


def test_another_process_waits_for_a_lock_and_gives_up_in_time(
    here: AdvisoryLocks, there: AdvisoryLocks
) -> None:
    with here.hold("a"), pytest.raises(Unavailable, match="still works on a"), there.hold("a", seconds=0.1):
        pass
    with there.hold("a"):
        pass


def test_threads_of_one_process_exclude_each_other(here: AdvisoryLocks) -> None:
    order: list[str] = []
    is_held = threading.Event()

    def second() -> None:
        is_held.wait(20)
        with here.hold("a"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with here.hold("a"):
        is_held.set()
        thread.join(0.2)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]
    with here.hold("a"), pytest.raises(Unavailable), here.hold("a", seconds=0.05):
        pass


def test_the_locks_of_a_process_that_dies_are_free(here: AdvisoryLocks, there: AdvisoryLocks) -> None:
    with there.hold("a"):
        with there.engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> "
                "pg_backend_pid()"
            )
        assert here.held(["a"]) == set()
        with here.hold("a"):
            pass
    with there.hold("a"):  # on a new connection
        assert here.held(["a"]) == {"a"}
