"""Locks that another account cannot hold, and waits that end."""

import fcntl
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.domain.ssh_keys import make_pair
from gateway.errors import PipesUnavailable, Unavailable
from gateway.repositories import lock
from gateway.repositories.files.pipes import Pipes
from gateway.repositories.files.session_files import HostSessionFiles
from gateway.repositories.sql.leadership import FileLeadership
from tests.conftest import Bench
from tests.fakes.pipe_parts import pipe

STRANGER = 65533


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process holds the lock."""
    hold = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdout.readline()
        yield
        holder.stdin.write("\n")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (inspect.unwrap(lock.locked), lock.wait):
        defaults = [0.2 if value == lock.WAIT_SECONDS else value for value in function.__defaults__ or ()]
        monkeypatch.setattr(function, "__defaults__", tuple(defaults))


def test_a_lock_is_its_owners_alone_also_one_of_an_older_version(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.touch(mode=0o644)
    with lock.locked(path, "try"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_wait_ends_and_says_what_it_was_for(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    with lock.locked(path, "make it"):
        pass
    why = "waiting to try it; see which one with `lslocks`"
    with held(path), pytest.raises(Unavailable, match=why), lock.locked(path, "try it"):
        pytest.fail("somebody else holds it")
    with lock.locked(path, "try it again"):
        pass


def test_threads_exclude_each_other(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with lock.locked(tmp_path / "a.lock", "count", seconds=10):
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_pipe_file_that_somebody_locks_for_ever_fails_the_publication(tmp_path: Path) -> None:
    pipes = Pipes(tmp_path / "pipe.yaml")
    pipes.add(pipe())
    with (
        held(tmp_path / ".pipe.yaml.lock"),
        pytest.raises(PipesUnavailable, match="waiting to publish a route"),
    ):
        pipes.add(pipe("s2", "other"))
    pipes.add(pipe("s2", "other"))


def test_a_claim_that_somebody_holds_is_not_waited_for_without_end(tmp_path: Path) -> None:
    files = HostSessionFiles(tmp_path / "sessions")
    why = pytest.raises(Unavailable, match="waiting to work on session b")
    with held_directory(tmp_path / "sessions/b"), why, files.claim("b"):
        pytest.fail("somebody else holds it")


@contextmanager
def held_directory(path: Path) -> Iterator[None]:
    path.mkdir(parents=True)
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_no_other_account_of_the_host_can_take_a_lock(bench: Bench, tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == 0 and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)  # pytest's own directories are private
    bench.client.post("/sessions", json={"user_id": "ann", "ssh_public_keys": [make_pair().public]})
    pipes = Pipes(tmp_path / "routes/pipe.yaml")
    pipes.add(pipe())
    leadership = FileLeadership(tmp_path / "state/reaper.lock")
    assert leadership.acquire()
    opened = subprocess.run(
        ["find", tmp_path, "-readable", "-printf", "%f\n"], capture_output=True, text=True, user=STRANGER
    ).stdout.split()
    leadership.release()
    assert [name for name in opened if "lock" in name] == []
    [session_id] = os.listdir(tmp_path / "state/sessions")
    assert session_id not in opened
