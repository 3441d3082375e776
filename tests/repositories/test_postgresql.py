"""Failures of a PostgreSQL server, and what its administrator is message."""

import threading
from collections.abc import Iterator
from datetime import UTC
from urllib.parse import quote

import pytest
from alembic import command
from click.testing import CliRunner

from gateway.cli import gateway as command_line
from gateway.database_url import DatabaseUrl
from gateway.domain.uids import FIRST_UID
from gateway.errors import DatabaseUnavailable, GatewayError, InvalidRequest, StartRefused
from gateway.repositories.sql import owner, schema
from gateway.repositories.sql.database import SqlDatabase, make_engine
from tests.postgresql import PASSWORD, PostgresServer
from tests.repositories.rows import add, session


@pytest.fixture
def database(postgresql_url: DatabaseUrl) -> Iterator[SqlDatabase]:
    database = SqlDatabase(postgresql_url)
    yield database
    database.engine.dispose()


def test_concurrent_migrations_all_succeed(postgresql: PostgresServer) -> None:
    url, failures = DatabaseUrl(postgresql.create()), []

    def migrate() -> None:
        try:
            schema.upgrade(url)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    schema.require_current(url)


def test_migrations_go_down_and_up_again(postgresql_url: DatabaseUrl, database: SqlDatabase) -> None:
    add(database, session("a"))
    config = schema.alembic_config()
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with pytest.raises(StartRefused, match="is empty"):
        schema.require_current(postgresql_url)
    schema.upgrade(postgresql_url)
    add(database, session("a"))


def test_a_restart_of_the_server_fails_only_running_transactions(
    postgresql: PostgresServer, database: SqlDatabase
) -> None:
    add(database, session("a"))
    postgresql.stop()
    try:
        with pytest.raises(DatabaseUnavailable) as refused, database.read() as rows:
            rows.list()
    finally:
        postgresql.start()
    assert PASSWORD not in str(refused.value)
    with database.read() as rows:
        assert rows.get("id-of-a")


def test_times_are_in_utc_whatever_the_time_zone_of_the_server(
    postgresql: PostgresServer, postgresql_url: DatabaseUrl
) -> None:
    postgresql.ask(f"ALTER DATABASE {postgresql_url.url.database} SET TimeZone = 'Asia/Seoul'")
    database = SqlDatabase(postgresql_url)
    made = session("a")
    before = made.expires_at
    add(database, made)
    with database.read() as rows:
        [row], [columns] = rows.list(), rows.live_sessions()
    database.engine.dispose()
    assert row.expires_at.tzinfo is columns.expires_at.tzinfo is UTC
    assert row.expires_at == columns.expires_at == before


def test_a_value_the_database_cannot_store_is_an_invalid_request(database: SqlDatabase) -> None:
    with pytest.raises(InvalidRequest), database.begin() as rows:
        rows.user("x" * 100)
    with database.begin() as rows:
        assert rows.user("a").uid == FIRST_UID


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"password": "wrong-p4ssword"}, "password authentication failed"),
        ({"name": "nowhere"}, "does not exist"),
        ({"host": "/nonexistent"}, "check that the server runs"),
    ],
)
def test_an_unusable_server_is_reported_in_one_line_without_the_password(
    postgresql: PostgresServer, change: dict[str, str], expected: str
) -> None:
    where = {"password": PASSWORD, "name": "postgres", "host": str(postgresql.directory)} | change
    url = f"postgresql://gateway:{quote(where['password'], '')}@/{where['name']}?host={where['host']}"
    with pytest.raises(StartRefused) as refused:
        schema.require_current(DatabaseUrl(url))
    message = str(refused.value)
    assert expected in message
    assert "\n" not in message
    assert where["password"] not in message
    assert quote(where["password"], "") not in message


def test_a_password_on_the_command_line_is_refused(postgresql: PostgresServer) -> None:
    done = CliRunner().invoke(command_line, ["migrate", "--db", postgresql.url("postgres")])
    assert isinstance(done.exception, GatewayError)
    assert "PGPASSFILE" in str(done.exception)
    assert PASSWORD not in str(done.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mysql://root@localhost/x", "neither sqlite nor postgresql"),
        ("sessions.db", "absolute path"),
        ("postgresql://a:b@c@host/x", "%40"),
        ("postgresql://host:port/x", "no URL"),
    ],
)
def test_a_wrong_url_is_reported_in_one_line(text: str, message: str) -> None:
    with pytest.raises(StartRefused, match=message):
        DatabaseUrl(text)


def test_the_backup_command_refers_to_pg_dump(postgresql_url: DatabaseUrl) -> None:
    done = CliRunner().invoke(command_line, ["backup"], env={"GATEWAY_DB": url_of(postgresql_url)})
    assert "pg_dump" in str(done.exception)
    assert PASSWORD not in str(done.exception)


def url_of(db: DatabaseUrl) -> str:
    return db.url.render_as_string(hide_password=False)


def test_a_database_belongs_to_the_first_machine_that_uses_it(postgresql_url: DatabaseUrl) -> None:
    for _ in range(2):
        owner.require_own(postgresql_url, lambda: "mine")
    with pytest.raises(StartRefused, match="gateway take-over"):
        owner.require_own(postgresql_url, lambda: "another")


def test_a_database_can_be_taken_over_once_no_gateway_uses_it(postgresql_url: DatabaseUrl) -> None:
    owner.require_own(postgresql_url, lambda: "broken")
    engine = make_engine(postgresql_url)
    with engine.begin() as connection:
        lease = "UPDATE deployment SET leader = 'lives', lease_until = now() + interval '1 second'"
        connection.exec_driver_sql(lease)
    with pytest.raises(StartRefused, match="stop it first"):
        owner.take_over(postgresql_url, "new")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE deployment SET lease_until = NULL")
    engine.dispose()
    owner.take_over(postgresql_url, "new")
    owner.require_own(postgresql_url, lambda: "new")
