"""A live session of every older schema goes on under today's."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import IntegrityError

from gateway.database_url import DatabaseUrl
from gateway.repositories.sql import schema
from gateway.repositories.sql.database import SqlDatabase, make_engine
from tests.postgresql import PostgresServer
from tests.repositories.rows import NOW

REVISIONS = [
    script.revision
    for script in reversed(list(ScriptDirectory.from_config(schema.alembic_config()).walk_revisions()))
]

OF_THE_FIRST_SCHEMA = {
    "id": "id-of-a",
    "user_id": "a",
    "status": "active",
    "mig_profile": "3g.20gb",
    "gpu": "GPU-1",
    "start": 4,
    "size": 4,
    "gpu_uuid": "MIG-1",
    "container_id": "c1",
    "address": "10.0.0.2",
    "public_keys": "[]",
    "private_key": "",
    "host_key": "",
    "created_at": "2025-01-17 08:00:00+00:00",
    "expires_at": "2025-01-17 09:00:00+00:00",
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseUrl:
    """An empty database."""
    if request.param == "sqlite":
        (tmp_path / "sessions.db").touch()
        return DatabaseUrl(tmp_path / "sessions.db")
    server: PostgresServer = request.getfixturevalue("postgresql")
    return DatabaseUrl(server.create())


@contextmanager
def connected(url: DatabaseUrl) -> Iterator[Connection]:
    engine = make_engine(url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def bring_to(url: DatabaseUrl, revision: str) -> None:
    config = schema.alembic_config()
    with connected(url) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


def add_live_session(url: DatabaseUrl) -> None:
    """As the schema of the time had it: every later column has its default."""
    row = dict(OF_THE_FIRST_SCHEMA)
    if url.path:  # SQLite keeps times without a zone
        row |= {name: str(row[name]).removesuffix("+00:00") for name in ("created_at", "expires_at")}
    names, marks = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
    with connected(url) as connection:
        connection.execute(text("INSERT INTO users (id, uid, public_keys) VALUES ('a', 20000, '[]')"))
        connection.execute(text(f"INSERT INTO sessions ({names}) VALUES ({marks})"), row)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_live_session_of_an_older_schema_goes_on(url: DatabaseUrl, revision: str) -> None:
    bring_to(url, revision)
    add_live_session(url)
    schema.upgrade(url)
    database = SqlDatabase(url)
    with database.read() as rows:
        [row] = rows.list()
        assert rows.cordons() == {}
        assert rows.user("a").uid == 20000
    database.engine.dispose()
    assert (row.gpu, row.start, row.size, row.gpu_uuid) == ("GPU-1", 4, 4, "MIG-1")
    assert (row.address, row.expires_at) == ("10.0.0.2", NOW + timedelta(hours=1))
    assert (row.borrowed, row.problem, row.disconnect_due) == (False, None, False)


@pytest.mark.parametrize(
    "broken",
    ["status = 'asleep'", "end_reason = 'deleted'", "user_id = 'nobody'"],
)
def test_the_rules_of_the_table_hold_after_all_migrations(url: DatabaseUrl, broken: str) -> None:
    bring_to(url, "0001")
    add_live_session(url)
    schema.upgrade(url)
    with pytest.raises(IntegrityError), connected(url) as connection:
        connection.execute(text(f"UPDATE sessions SET {broken}"))


def test_two_sessions_may_wait_for_an_address_and_never_share_one(url: DatabaseUrl) -> None:
    schema.upgrade(url)
    with connected(url) as connection:
        columns = {
            column["name"]: column["nullable"] for column in inspect(connection).get_columns("sessions")
        }
        unique = [
            constraint["column_names"]
            for constraint in inspect(connection).get_unique_constraints("sessions")
        ]
    assert [columns[name] for name in ("address", "gpu", "start", "size")] == [True] * 4
    assert ["address"] in unique
    assert ["user_id"] in unique
