"""What only SQLite has: a file, and its backups."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from click.testing import CliRunner, Result

from gateway.cli import gateway as command_line
from gateway.database_url import DatabaseUrl
from gateway.domain.uids import FIRST_UID
from gateway.errors import DatabaseUnavailable, StartRefused
from gateway.repositories.sql import schema, sqlite
from gateway.repositories.sql.database import SqlDatabase, make_engine, make_read_only_engine
from tests.paths import REPOSITORY
from tests.repositories.rows import add, session


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "state/sessions.db"
    schema.upgrade(DatabaseUrl(path))
    return path


def test_only_its_owner_can_read_the_database(path: Path) -> None:
    assert path.stat().st_mode & 0o077 == 0


def test_migrations_go_down_and_up_again(path: Path) -> None:
    add(SqlDatabase(DatabaseUrl(path)), session("a"))
    config = schema.alembic_config()
    with make_engine(DatabaseUrl(path)).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT name FROM sqlite_master WHERE name = 'sessions'").fetchall() == []
    schema.upgrade(DatabaseUrl(path))
    add(SqlDatabase(DatabaseUrl(path)), session("a"))


def test_migrating_again_changes_nothing_and_makes_no_backup(path: Path) -> None:
    before = sorted(path.parent.iterdir())
    assert schema.upgrade(DatabaseUrl(path)) is None
    assert sorted(path.parent.iterdir()) == before


def test_without_a_current_schema_the_error_names_the_command(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with pytest.raises(StartRefused, match=f"does not exist.*gateway migrate --db {path}"):
        schema.require_current(DatabaseUrl(path))
    path.touch()
    with pytest.raises(StartRefused, match="is empty"):
        schema.require_current(DatabaseUrl(path))
    schema.upgrade(DatabaseUrl(path))
    schema.require_current(DatabaseUrl(path))
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = 'from-the-future'")
    with pytest.raises(StartRefused, match="from-the-future"):
        schema.require_current(DatabaseUrl(path))


def test_concurrent_migrations_all_succeed(tmp_path: Path) -> None:
    path, failures = tmp_path / "sessions.db", []

    def migrate() -> None:
        try:
            schema.upgrade(DatabaseUrl(path))
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=migrate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    schema.require_current(DatabaseUrl(path))


def test_an_older_database_is_backed_up_before_its_migration(path: Path) -> None:
    add(SqlDatabase(DatabaseUrl(path)), session("a"))
    config = schema.alembic_config()
    with make_engine(DatabaseUrl(path)).begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "-1")
    copy = schema.upgrade(DatabaseUrl(path))
    assert copy is not None
    require_private_copy(copy)


def require_private_copy(copy: Path) -> None:
    assert copy.stat().st_mode & 0o077 == 0
    with sqlite3.connect(copy) as raw:
        assert raw.execute("SELECT user_id FROM sessions").fetchall() == [("a",)]


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of its own, which `remount` makes read-only and writable again."""
    directory = Path(tempfile.mkdtemp(prefix="gateway-disk-"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)
    directory.rmdir()


def remount(directory: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", directory], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize("crashed", [False, True])
def test_a_database_that_is_writable_again_is_written_again(disk: Path, path: Path, crashed: bool) -> None:
    database = SqlDatabase(DatabaseUrl(path))
    add(database, session("a"))
    if not crashed:
        database.engine.dispose()
    for file in path.parent.glob("sessions.db*"):  # a dead process leaves the write-ahead log behind
        shutil.copy(file, disk)
    database.engine.dispose()
    remount(disk, "ro")
    database = SqlDatabase(DatabaseUrl(disk / "sessions.db"))
    for attempt in (database.check, lambda: add(database, session("b", 1)), database.check):
        with pytest.raises(DatabaseUnavailable, match="mounted read-only"):
            attempt()
    remount(disk, "rw")
    database.check()
    add(database, session("b", 1))
    with database.read() as rows:
        assert [row.user_id for row in rows.list()] == ["a", "b"]
    database.engine.dispose()


def is_removed(path: Path) -> None:
    for file in path.parent.glob("sessions.db*"):
        file.unlink()


def is_replaced(path: Path) -> None:
    """By an older backup, with a rename, as many tools copy."""
    shutil.copy(path.parent / "backup.db", path.parent / "copy.db")
    (path.parent / "copy.db").rename(path)


@pytest.mark.parametrize("accident", [is_removed, is_replaced])
def test_nothing_is_written_into_a_file_that_was_removed_or_replaced(
    path: Path, accident: Callable[[Path], None]
) -> None:
    """SQLite would go on in a file that ends with the process, and make a new, empty one."""
    database = SqlDatabase(DatabaseUrl(path))
    add(database, session("a"))
    gateway("backup", path.parent / "backup.db", "--db", path)
    (path.parent / "original").hardlink_to(path)
    accident(path)
    existed = path.exists()
    for attempt in (database.check, lambda: add(database, session("b", 1)), database.check):
        with pytest.raises(DatabaseUnavailable, match="was removed or replaced"):
            attempt()
    with database.read() as rows, database.read() as others:
        assert [row.user_id for row in rows.list()] == ["a"]
        with pytest.raises(DatabaseUnavailable, match="was removed or replaced"):
            others.list()  # by a second connection, which would be one to another file
    assert path.exists() == existed
    (path.parent / "original").rename(path)
    database.check()
    add(database, session("b", 1))
    database.engine.dispose()


def test_no_command_makes_a_database_but_migrate(tmp_path: Path) -> None:
    """Such as the doctor, which would make an empty one that others can read."""
    path = tmp_path / "sessions.db"
    database = SqlDatabase(DatabaseUrl(path))
    for attempt in (database.check, lambda: add(database, session("a"))):
        with pytest.raises(DatabaseUnavailable, match="does not exist"):
            attempt()
    with pytest.raises(DatabaseUnavailable, match="does not exist"), database.read() as rows:
        rows.list()
    assert not path.exists()
    schema.upgrade(DatabaseUrl(path))
    assert path.stat().st_mode & 0o777 == 0o600
    add(database, session("a"))
    database.engine.dispose()


@pytest.mark.parametrize("intact", [0, 4096])
def test_a_database_that_is_damaged_says_so_and_how_to_put_a_backup_back(path: Path, intact: int) -> None:
    path.write_bytes(path.read_bytes()[:intact] + b"\xff" * (path.stat().st_size - intact))
    database = SqlDatabase(DatabaseUrl(path))
    with pytest.raises(DatabaseUnavailable, match="is damaged .*gateway restore"), database.read() as rows:
        rows.list()
    database.engine.dispose()
    with pytest.raises(StartRefused, match="gateway restore"):
        schema.require_current(DatabaseUrl(path))


@pytest.mark.parametrize("intact", [0, 4096])
def test_a_backup_takes_the_place_of_a_damaged_database_which_is_kept(path: Path, intact: int) -> None:
    backup = _backed_up(path)
    damaged = path.read_bytes()[:intact] + b"\xff" * (path.stat().st_size - intact)
    path.write_bytes(damaged)
    kept = sqlite.restore(path, backup)
    assert kept is not None
    assert kept.read_bytes()[100:] == damaged[100:]  # SQLite counts copies in the header
    _require_restored(path)


def test_the_log_of_a_removed_database_is_not_applied_to_the_backup(path: Path) -> None:
    backup = _backed_up(path)
    command: list[str | Path] = [sys.executable, "-c", _WRITER, path]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"written\n"
        writer.kill()
    assert path.with_name("sessions.db-wal").stat().st_size
    path.unlink()
    assert sqlite.restore(path, backup) is None
    _require_restored(path)


def _backed_up(path: Path) -> Path:
    database = SqlDatabase(DatabaseUrl(path))
    add(database, session("backed-up", 1))
    sqlite.back_up(path, path.with_name("backup"))
    database.engine.dispose()
    return path.with_name("backup")


def _require_restored(path: Path) -> None:
    sqlite.require_sound(path)
    with SqlDatabase(DatabaseUrl(path), make_read_only_engine).read() as rows:
        assert [row.user_id for row in rows.list()] == ["backed-up"]
    assert not path.with_name("sessions.db.restoring").exists()


def is_lost(shared: Path) -> None:
    shared.unlink()


def is_torn(shared: Path) -> None:
    """The two copies of the header differ, as when a process is killed between them."""
    content = bytearray(shared.read_bytes())
    content[8:12] = b"\xff\xff\xff\xff"
    shared.write_bytes(content)


_WRITER = """
import sys
from tests.repositories.test_sqlite import *
database = SqlDatabase(DatabaseUrl(Path(sys.argv[1])))
add(database, session("a"))
print("written", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("damage", "is_another_alive"), [(is_lost, False), (is_torn, True)])
def test_a_database_of_a_killed_process_is_read_whole_and_not_changed(
    path: Path, damage: Callable[[Path], None], is_another_alive: bool
) -> None:
    command: list[str | Path] = [sys.executable, "-c", _WRITER, path]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout
        assert writer.stdout.readline() == b"written\n"
        if not is_another_alive:
            writer.kill()
            writer.wait()
        damage(path.with_name(path.name + "-shm"))
        before = {file: file.read_bytes() for file in path.parent.iterdir()}
        schema.require_current(DatabaseUrl(path))
        with SqlDatabase(DatabaseUrl(path), make_read_only_engine).read() as rows:
            assert [row.user_id for row in rows.list()] == ["a"]
        assert {file: file.read_bytes() for file in path.parent.iterdir()} == before
        writer.kill()


def gateway(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command_line, [str(argument) for argument in arguments])


def test_a_backup_is_consistent_while_the_database_is_written(path: Path) -> None:
    database = SqlDatabase(DatabaseUrl(path))
    add(database, session("a"))
    with database.begin() as rows:
        rows.user("b")
        done = gateway("backup", path.parent / "copy.db", "--db", path)
    assert (done.exit_code, done.output) == (0, f"{path.parent / 'copy.db'}\n")
    require_private_copy(path.parent / "copy.db")
    with SqlDatabase(DatabaseUrl(path.parent / "copy.db")).begin() as rows:
        assert rows.user("c").uid == FIRST_UID + 1  # what was not committed is not in it


def test_a_backup_without_a_name_is_beside_the_database(path: Path) -> None:
    add(SqlDatabase(DatabaseUrl(path)), session("a"))
    copy = Path(gateway("backup", "--db", path).output.strip())
    assert copy.parent == path.parent
    require_private_copy(copy)


def test_a_backup_overwrites_nothing_and_leaves_no_partial_copy(path: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    refused = gateway("backup", tmp_path / "taken", "--db", path)
    assert "exists already" in str(refused.exception)
    assert (tmp_path / "taken").read_text() == "mine"
    assert "cannot be written" in str(gateway("backup", tmp_path / "no/such", "--db", path).exception)
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"not a database at all" * 500)
    assert "cannot be copied" in str(gateway("backup", tmp_path / "half", "--db", broken).exception)
    assert not (tmp_path / "half").exists()
    assert "does not exist" in str(gateway("backup", "--db", tmp_path / "none.db").exception)
