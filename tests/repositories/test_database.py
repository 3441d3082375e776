import sqlite3
import threading
import traceback
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import IntegrityError

from gateway.errors import DatabaseUnavailable, StartRefused
from gateway.models import FIRST_UID, Base, Reason, Session, Status
from gateway.repositories import schema
from gateway.repositories.database import SqlDatabase, make_engine

NOW = datetime(2025, 1, 17, 8, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state/sessions.db"
    schema.upgrade(path)
    return path


def session(user_id: str, start: int = 0, **changes: object) -> Session:
    values: dict[str, object] = {
        "id": f"id-of-{user_id}",
        "user_id": user_id,
        "status": Status.PENDING,
        "mig_profile": "1g.5gb",
        "gpu": "GPU-1",
        "start": start,
        "size": 1,
        "address": f"10.0.0.{start + 2}",
        "public_keys": [],
        "private_key": "",
        "host_key": "",
        "created_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
    }
    return Session(**(values | changes))


def add(database: SqlDatabase, row: Session) -> None:
    with database.begin() as rows:
        rows.user(row.user_id)
        rows.add(row)


def test_a_row_comes_back_as_it_went_in_with_utc_times(path: Path) -> None:
    database = SqlDatabase(path)
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
    path: Path, user_id: str, changes: dict[str, object]
) -> None:
    database = SqlDatabase(path)
    add(database, session("a"))
    with pytest.raises(DatabaseUnavailable) as refused:
        add(database, session(user_id, **changes))
    assert isinstance(refused.value.__cause__, IntegrityError)


def test_an_error_of_the_database_quotes_no_private_key(path: Path) -> None:
    database, secret = SqlDatabase(path), " ".join(["a", "private", "key"])
    add(database, session("a"))
    with pytest.raises(DatabaseUnavailable) as refused:
        add(database, session("b", private_key=secret))
    assert secret not in "".join(traceback.format_exception(refused.value))


def test_a_uid_is_never_given_to_another(path: Path) -> None:
    database = SqlDatabase(path)
    with database.begin() as rows:
        uids = [rows.user(user_id).uid for user_id in ("a", "b", "a", "c")]
    assert uids == [FIRST_UID, FIRST_UID + 1, FIRST_UID, FIRST_UID + 2]


def test_what_is_not_committed_is_not_there(path: Path) -> None:
    database = SqlDatabase(path)

    def fail_halfway() -> None:
        with database.begin() as rows:
            rows.user("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    with database.begin() as rows:
        assert rows.user("b").uid == FIRST_UID


def test_many_writers_lose_no_update(path: Path) -> None:
    database = SqlDatabase(path)

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


def test_an_ended_session_leaves_the_live_ones_and_keeps_a_record(path: Path) -> None:
    database = SqlDatabase(path)
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


def test_the_database_is_its_owners_alone(path: Path) -> None:
    assert path.stat().st_mode & 0o077 == 0


def test_the_models_and_the_migrations_agree(path: Path) -> None:
    with make_engine(path).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_go_down_and_up_again(path: Path) -> None:
    add(SqlDatabase(path), session("a"))
    config = schema.alembic_config()
    with make_engine(path).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT name FROM sqlite_master WHERE name = 'sessions'").fetchall() == []
    schema.upgrade(path)
    add(SqlDatabase(path), session("a"))


def test_live_sessions_survive_each_migration(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    config = schema.alembic_config()
    with make_engine(path).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    with sqlite3.connect(path) as raw:
        raw.execute("INSERT INTO users VALUES ('a', 20000, '[]')")
        raw.execute(
            "INSERT INTO sessions VALUES ('id-of-a', 'a', 'active', NULL, '3g.20gb', 'GPU-1', 4, 4, 'MIG-1',"
            " 'c1', '10.0.0.2', '[]', '', '', '2025-01-17 08:00:00', '2025-01-17 09:00:00')"
        )
    copy = schema.upgrade(path)
    assert copy is not None
    with SqlDatabase(path).read() as rows:
        [row] = rows.list()
        assert rows.cordons() == {}
    assert (row.gpu, row.start, row.gpu_uuid, row.expires_at) == (
        "GPU-1",
        4,
        "MIG-1",
        NOW + timedelta(hours=1),
    )
    assert (row.borrowed, row.problem) == (False, None)


def test_demand_counts_live_sessions_and_those_that_ended(path: Path) -> None:
    database = SqlDatabase(path)
    add(database, session("a"))
    add(database, session("b", 4, mig_profile="3g.20gb"))
    with database.begin() as rows:
        row = rows.get("id-of-a")
        assert row is not None
        row.close(Reason.EXPIRED)
        rows.end(row, NOW)
    with database.read() as rows:
        assert rows.demand() == {"1g.5gb": 1, "3g.20gb": 1}


def test_migrating_again_changes_nothing_and_makes_no_copy(path: Path) -> None:
    before = sorted(path.parent.iterdir())
    assert schema.upgrade(path) is None
    assert sorted(path.parent.iterdir()) == before


def test_serving_is_refused_without_a_current_schema_and_names_the_command(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with pytest.raises(StartRefused, match=f"does not exist.*gateway migrate --db {path}"):
        schema.require_current(path)
    path.touch()
    with pytest.raises(StartRefused, match="is empty"):
        schema.require_current(path)
    schema.upgrade(path)
    schema.require_current(path)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = 'from-the-future'")
    with pytest.raises(StartRefused, match="from-the-future"):
        schema.require_current(path)


def test_several_migrations_at_once_all_succeed(tmp_path: Path) -> None:
    path, failures = tmp_path / "sessions.db", []

    def migrate() -> None:
        try:
            schema.upgrade(path)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    schema.require_current(path)


def test_an_older_database_is_copied_before_it_is_migrated(path: Path) -> None:
    add(SqlDatabase(path), session("a"))
    copy = schema.back_up(path, "0001")
    assert copy.stat().st_mode & 0o077 == 0
    with sqlite3.connect(copy) as raw:
        assert raw.execute("SELECT user_id FROM sessions").fetchall() == [("a",)]
