"""The contract of the database, on SQLite and on PostgreSQL."""

import threading
import traceback
from datetime import UTC, timedelta, timezone
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import IntegrityError

from gateway.domain.clock import Moment
from gateway.domain.models import Base
from gateway.domain.states import Reason
from gateway.domain.uids import FIRST_UID
from gateway.errors import DatabaseUnavailable
from gateway.repositories.sql.database import SqlDatabase
from tests.repositories.rows import NOW, add, session


def test_a_row_is_read_back_unchanged_with_utc_times(database: SqlDatabase) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=9)))
    add(database, session("a", expires_at=elsewhere))
    with database.read() as rows:
        found = rows.get("id-of-a")
    assert found is not None
    assert found.expires_at == NOW
    assert found.expires_at.tzinfo == UTC


@pytest.mark.parametrize(
    ("user_id", "changes"),
    [
        ("a", {"id": "another", "address": "10.9.9.9", "start": 4}),
        ("b", {"address": "10.9.9.9"}),
        ("b", {"start": 4, "address": "10.0.0.2"}),
    ],
)
def test_a_user_a_placement_and_an_address_belong_to_one_session(
    database: SqlDatabase, user_id: str, changes: dict[str, Any]
) -> None:
    add(database, session("a"))
    with pytest.raises(DatabaseUnavailable) as refused:
        add(database, session(user_id, **changes))
    assert isinstance(refused.value.__cause__, IntegrityError)


def test_an_error_of_the_database_quotes_no_private_key(database: SqlDatabase) -> None:
    secret = " ".join(["a", "private", "key"])
    add(database, session("a"))
    with pytest.raises(DatabaseUnavailable) as refused:
        add(database, session("b", private_key=secret))
    assert secret not in "".join(traceback.format_exception(refused.value))


def test_a_uid_is_never_given_to_another_user(database: SqlDatabase) -> None:
    with database.begin() as rows:
        uids = [rows.user(user_id).uid for user_id in ("a", "b", "a", "c")]
    assert uids == [FIRST_UID, FIRST_UID + 1, FIRST_UID, FIRST_UID + 2]


def test_uncommitted_changes_are_not_visible(database: SqlDatabase) -> None:
    def fail_halfway() -> None:
        with database.begin() as rows:
            rows.user("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    with database.begin() as rows:
        assert rows.user("b").uid == FIRST_UID


def test_a_reader_sees_one_moment_and_no_writer_waits_for_it(database: SqlDatabase) -> None:
    add(database, session("a"))
    with database.read() as rows:
        assert [each.user_id for each in rows.list()] == ["a"]
        add(database, session("b", 1))
        assert [each.user_id for each in rows.list()] == ["a"]
        assert rows.of_user("b") is None
    with database.read() as rows:
        assert [each.user_id for each in rows.list()] == ["a", "b"]


def test_many_writers_lose_no_update(database: SqlDatabase) -> None:
    def write(number: int) -> None:
        for step in range(10):
            with database.begin() as rows:
                rows.user(f"u{number}-{step}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.begin() as rows:
        assert rows.user("last").uid == FIRST_UID + 80


def test_an_ended_session_leaves_the_live_ones_and_keeps_a_record(database: SqlDatabase) -> None:
    add(database, session("a"))
    with database.begin() as rows:
        row = rows.get("id-of-a")
        assert row is not None
        row.close(Reason.DELETED)
        row.close(Reason.EXPIRED)
        rows.end(row, NOW)
    with database.read() as rows:
        assert rows.list() == []
        ended = rows.get_ended("id-of-a")
    assert ended is not None
    assert (ended.reason, ended.ended_at) == ("deleted", NOW)


def test_the_models_and_the_migrations_agree(database: SqlDatabase) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_demand_counts_requests_and_their_repetitions_once(database: SqlDatabase) -> None:
    minute = timedelta(minutes=1)
    with database.begin() as rows:
        for user, profile, minutes in [("a", "1g", 0), ("a", "1g", 9), ("b", "1g", 9), ("a", "3g", 9)]:
            rows.record_request(user, profile, NOW + minutes * minute)
        assert rows.demand() == {"1g": 2, "3g": 1}
        rows.record_request("a", "1g", NOW + 10 * minute)
        assert rows.demand() == {"1g": 3, "3g": 1}


def test_demand_is_that_of_the_latest_thousand_requests_within_the_history(database: SqlDatabase) -> None:
    with database.begin() as rows:
        for number in range(1005):
            rows.record_request(f"user{number}", "old" if number < 10 else "new", NOW)
        assert rows.demand() == {"old": 5, "new": 995}
        rows.record_request("last", "new", NOW + timedelta(days=1))
        rows.forget(NOW + timedelta(hours=1))
        assert rows.demand() == {"new": 1}


def test_leases_end_by_the_uptime_of_their_boot_and_others_by_the_wall_clock(database: SqlDatabase) -> None:
    now = Moment(NOW, "this", timedelta(hours=5))
    with database.read() as rows:
        assert (list(rows.expired(now)), rows.next_expiry(now)) == ([], None)
    hour = timedelta(hours=1)
    add(database, session("over", 0, boot="this", expires_uptime=5 * 3600.0))
    add(database, session("runs", 1, boot="this", expires_uptime=6 * 3600.0, expires_at=NOW - hour))
    add(database, session("before", 2, boot="another", expires_uptime=0.0, expires_at=NOW + 2 * hour))
    add(database, session("unknown", 3, expires_at=NOW))
    with database.read() as rows:
        assert {row.user_id for row in rows.expired(now)} == {"over", "unknown"}
        assert rows.next_expiry(now) == timedelta()
    with database.begin() as rows:
        for row in rows.expired(now):
            row.close(Reason.EXPIRED)
    with database.read() as rows:
        assert list(rows.expired(now)) == []
        assert rows.next_expiry(now) == hour
        later = Moment(NOW, "next", timedelta())
        assert {row.user_id for row in rows.expired(later)} == {"runs"}
        assert rows.next_expiry(later) == -hour
