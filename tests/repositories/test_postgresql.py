"""What a PostgreSQL server may do to the gateway, and what its administrator is told."""

import threading
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from alembic import command
from click.testing import CliRunner

from gateway.cli import gateway as command_line
from gateway.database_url import DatabaseUrl
from gateway.domain.models import FIRST_UID
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


def test_several_migrations_at_once_all_succeed(postgresql: PostgresServer) -> None:
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


def test_a_restart_of_the_server_costs_the_transactions_under_way_only(
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


def test_what_the_database_cannot_hold_is_the_requests_fault(database: SqlDatabase) -> None:
    with pytest.raises(InvalidRequest), database.begin() as rows:
        rows.user("x" * 100)
    with database.begin() as rows:
        assert rows.user("a").uid == FIRST_UID


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"password": "wrong-p4ssword"}, "password authentication failed"),
        ({"name": "nowhere"}, "does not exist"),
        ({"host": "/nonexistent"}, "see that the server runs"),
    ],
)
def test_a_server_that_cannot_be_used_is_told_in_a_line_without_the_password(
    postgresql: PostgresServer, change: dict[str, str], told: str
) -> None:
    where = {"password": PASSWORD, "name": "postgres", "host": str(postgresql.directory)} | change
    url = f"postgresql://gateway:{quote(where['password'], '')}@/{where['name']}?host={where['host']}"
    with pytest.raises(StartRefused) as refused:
        schema.require_current(DatabaseUrl(url))
    message = str(refused.value)
    assert told in message
    assert "\n" not in message
    assert where["password"] not in message
    assert quote(where["password"], "") not in message


def test_a_password_on_the_command_line_is_refused(postgresql: PostgresServer) -> None:
    done = CliRunner().invoke(command_line, ["migrate", "--db", postgresql.url("postgres")])
    assert isinstance(done.exception, GatewayError)
    assert "PGPASSFILE" in str(done.exception)
    assert PASSWORD not in str(done.exception)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mysql://root@localhost/x", "neither sqlite nor postgresql"),
        ("sessions.db", "absolute path"),
        ("postgresql://a:b@c@host/x", "%40"),
        ("postgresql://host:port/x", "no URL"),
    ],
)
def test_a_wrong_url_is_told_in_a_line(text: str, told: str) -> None:
    with pytest.raises(StartRefused, match=told):
        DatabaseUrl(text)


def test_a_backup_names_the_servers_own_program(postgresql_url: DatabaseUrl) -> None:
    done = CliRunner().invoke(command_line, ["backup"], env={"GATEWAY_DB": url_of(postgresql_url)})
    assert "pg_dump" in str(done.exception)
    assert PASSWORD not in str(done.exception)


def url_of(db: DatabaseUrl) -> str:
    return db.url.render_as_string(hide_password=False)


def test_a_database_belongs_to_the_machine_that_asked_first(postgresql_url: DatabaseUrl) -> None:
    for _ in range(2):
        owner.require_own(postgresql_url, lambda: "mine")
    with pytest.raises(StartRefused, match="gateway take-over"):
        owner.require_own(postgresql_url, lambda: "another")


def test_a_database_is_taken_over_once_nobody_works_on_it(postgresql_url: DatabaseUrl) -> None:
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
