"""The contract of the pipes in the file, in memory and on a cluster, then what only the file has."""

import errno
import fcntl
import multiprocessing
import os
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gateway.domain.pipe import Pipe
from gateway.domain.pipe_file import BEGIN, END
from gateway.errors import DiskFull, GatewayError, PipesUnavailable
from gateway.repositories.files.pipes import Pipes
from gateway.repositories.kubernetes.pipes import ClusterPipes
from tests.fakes.cluster import MemoryLocks
from tests.fakes.cluster_host import SITE
from tests.fakes.kubernetes import FakeKubernetes
from tests.fakes.pipe_parts import pipe
from tests.fakes.pipes import FakePipes

HANDWRITTEN = """\
# The cluster's way in, by hand.
version: "1.0"
pipes:
    - from:
        - username: "admin"   # on call
      to:
          host: 192.0.2.1
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pipe.yaml"


class PipesOnCluster(ClusterPipes):
    def __init__(self, fake: FakeKubernetes) -> None:
        super().__init__(fake.api, SITE, MemoryLocks(), lambda: "d1")

    def add(self, pipe: Pipe) -> None:
        self.update(lambda: pipe)


AnyPipes = Pipes | FakePipes | PipesOnCluster


@pytest.fixture(params=["file", "memory", "cluster"])
def pipes(request: pytest.FixtureRequest, path: Path) -> AnyPipes:
    if request.param == "cluster":
        return PipesOnCluster(FakeKubernetes())
    return Pipes(path) if request.param == "file" else FakePipes()


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_bytes(text.encode())
    path.chmod(mode)


# The contract.


def test_there_are_no_pipes_at_first(pipes: AnyPipes) -> None:
    assert pipes.list() == []
    assert pipes.routed_elsewhere(["admin", "user123"]) == set()
    pipes.check()


def test_an_added_pipe_is_listed(pipes: AnyPipes) -> None:
    pipes.add(pipe("s1"))
    pipes.add(pipe("s2", "other"))
    assert pipes.list() == [pipe("s1"), pipe("s2", "other")]


def test_adding_again_replaces_the_sessions_pipe(pipes: AnyPipes) -> None:
    pipes.add(pipe("s1", host="10.0.0.1"))
    pipes.add(pipe("s1", host="10.0.0.2"))
    assert pipes.list() == [pipe("s1", host="10.0.0.2")]


def test_a_removed_pipe_is_gone_and_the_others_stay(pipes: AnyPipes) -> None:
    pipes.add(pipe("s1"))
    pipes.add(pipe("s2", "other"))
    pipes.remove("s1")
    assert pipes.list() == [pipe("s2", "other")]


def test_removing_an_unknown_pipe_succeeds(pipes: AnyPipes) -> None:
    pipes.remove("s1")
    assert pipes.list() == []


def test_replace_leaves_exactly_the_wanted_pipes(pipes: AnyPipes) -> None:
    pipes.add(pipe("stale", "gone"))
    pipes.add(pipe("s1", host="10.0.0.1"))
    wanted = [pipe("s1", host="10.0.0.2"), pipe("s2", "other")]
    pipes.replace(lambda: wanted)
    assert sorted(pipes.list(), key=lambda pipe: pipe.session_id) == wanted


def test_replace_removes_every_pipe_if_none_is_wanted(pipes: AnyPipes) -> None:
    pipes.add(pipe())
    pipes.replace(list)
    assert pipes.list() == []


@pytest.mark.parametrize("pipes", ["file", "memory"], indirect=True)
def test_the_version_changes_with_the_pipes(pipes: AnyPipes) -> None:
    before = pipes.version()
    pipes.add(pipe("s1"))
    after = pipes.version()
    assert after not in (before, None)
    pipes.add(pipe("s1"))
    assert pipes.version() == after
    pipes.remove("s1")
    assert pipes.version() not in (before, after)


def test_nothing_changes_if_the_wanted_pipes_cannot_be_read(pipes: AnyPipes) -> None:
    pipes.add(pipe())

    def unknown() -> list[Pipe]:
        raise GatewayError("The database does not answer.")

    with pytest.raises(GatewayError, match="database"):
        pipes.replace(unknown)
    assert pipes.list() == [pipe()]


@pytest.mark.parametrize("error", [PipesUnavailable("no"), DiskFull("full")])
def test_the_fake_raises_the_error_it_was_given(error: GatewayError) -> None:
    fake = FakePipes([pipe()])
    fake.fail("add", error)
    with pytest.raises(type(error)):
        fake.add(pipe("s2"))
    fake.fail("add", None)
    fake.add(pipe("s2"))
    assert len(fake.list()) == 2


# The file.


def test_other_processes_see_the_pipes(path: Path) -> None:
    Pipes(path).add(pipe())
    assert Pipes(path).list() == [pipe()]


def test_the_file_meets_sshpipers_conditions(path: Path) -> None:
    Pipes(path).add(pipe())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [entry] = YAML(typ="safe").load(path.read_text())["pipes"]
    assert entry["to"]["known_hosts_data"]
    assert entry["from"][0]["authorized_keys_data"]


def test_only_the_pipe_file_matches_sshpipers_glob(path: Path) -> None:
    Pipes(path).add(pipe())
    assert [name for name in os.listdir(path.parent) if name.endswith(".yaml")] == ["pipe.yaml"]


def test_hand_written_parts_are_kept_byte_for_byte(path: Path) -> None:
    text = HANDWRITTEN.replace("\n", "\r\n")
    write(path, text)
    pipes = Pipes(path)
    pipes.add(pipe())
    pipes.remove("s1")
    marks = f"    {BEGIN}\r\n    {END}\r\n"
    assert path.read_bytes().decode() == text + marks
    assert pipes.routed_elsewhere(["admin", "user123"]) == {"admin"}


def test_reading_creates_no_file_and_takes_no_lock(path: Path) -> None:
    assert Pipes(path.parent / "absent/pipe.yaml").list() == []
    Pipes(path).add(pipe())
    with open(path.with_name(".pipe.yaml.lock"), "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert Pipes(path).list() == [pipe()]
    assert sorted(os.listdir(path.parent)) == [".pipe.yaml.lock", "pipe.yaml"]


def test_a_hand_written_pipe_below_the_marks_routes_no_one_elsewhere(path: Path) -> None:
    Pipes(path).add(pipe())
    below = "  - from: [{username: admin}]\n    to: {host: h}\n"
    path.write_text(path.read_text() + below)
    assert Pipes(path).routed_elsewhere(["admin", "user123"]) == set()


@pytest.mark.parametrize(
    ("pattern", "taken"), [("^ad", {"admin"}), ("", {"admin", "user123"}), ("[", set()), ("3$", {"user123"})]
)
def test_a_hand_written_pipe_can_match_users_by_an_expression(
    path: Path, pattern: str, taken: set[str]
) -> None:
    source = f'{{username: "{pattern}", username_regex_match: true}}'
    write(path, f"version: '1.0'\npipes:\n  - from: [{source}]\n    to: {{host: h}}\n")
    Pipes(path).add(pipe())
    assert Pipes(path).routed_elsewhere(["admin", "user123"]) == taken


def test_an_edit_between_two_publications_is_kept(path: Path) -> None:
    pipes = Pipes(path)
    pipes.add(pipe())
    edited = path.read_text().replace(
        "pipes:\n", "pipes:\n  - from: [{username: admin}]\n    to: {host: h}\n"
    )
    path.write_text(edited)
    pipes.add(pipe("s2", "other"))
    assert pipes.routed_elsewhere(["admin", "user123"]) == {"admin"}
    assert len(pipes.list()) == 2
    assert edited.splitlines()[:4] == path.read_text().splitlines()[:4]


def test_nothing_is_written_when_nothing_changes(path: Path) -> None:
    pipes = Pipes(path)
    pipes.add(pipe())
    before = path.stat().st_ino
    pipes.add(pipe())
    pipes.remove("absent")
    pipes.replace(lambda: [pipe()])
    assert path.stat().st_ino == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_the_owner_of_the_file_stays(path: Path) -> None:
    write(path, HANDWRITTEN)
    os.chown(path, 1000, 1001)
    Pipes(path).add(pipe())
    assert (path.stat().st_uid, path.stat().st_gid) == (1000, 1001)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipes: [\n", "not valid YAML"),
        (HANDWRITTEN + "pipes: []\n", "not valid YAML"),
        ("pipes: 7\n", "must be a block list"),
        (HANDWRITTEN + f"{BEGIN}\n", "BEGIN mark once"),
    ],
)
def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path, text: str, message: str) -> None:
    write(path, text)
    pipes = Pipes(path)
    for attempt in (lambda: pipes.add(pipe()), lambda: pipes.replace(list), pipes.check, pipes.list):
        with pytest.raises(PipesUnavailable, match=message):
            attempt()
    assert path.read_text() == text


def test_a_damaged_line_between_the_marks_is_refused_and_left_as_it_is(path: Path) -> None:
    pipes = Pipes(path)
    pipes.add(pipe())
    damaged = path.read_text().replace('"authorized_keys_data": "', '"authorized_keys_data": "", "x": "')
    path.write_text(damaged)
    with pytest.raises(PipesUnavailable, match="damaged"):
        pipes.add(pipe("s2", "other"))
    assert path.read_text() == damaged


def test_marks_moved_away_from_their_lines_are_refused(path: Path) -> None:
    pipes = Pipes(path)
    pipes.add(pipe())
    path.write_text(path.read_text().replace(f"  {BEGIN}", BEGIN).replace(f"  {END}", END))
    with pytest.raises(PipesUnavailable):
        pipes.add(pipe("s2", "other"))


def test_two_pipes_of_one_session_are_refused(path: Path) -> None:
    Pipes(path).add(pipe())
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:4], lines[3], *lines[4:]]))
    with pytest.raises(PipesUnavailable, match="two pipes for one session"):
        Pipes(path).check()


def test_bytes_that_are_not_text_are_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(PipesUnavailable, match="UTF-8"):
        Pipes(path).check()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused_until_its_mode_is_corrected(path: Path, mode: int) -> None:
    pipes = Pipes(path)
    pipes.add(pipe())
    path.chmod(mode)
    with pytest.raises(PipesUnavailable, match=r"chmod 600 pipe\.yaml"):
        pipes.remove("s1")
    path.chmod(0o600)
    assert pipes.list() == [pipe()]


def test_a_symbolic_link_is_refused(path: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", HANDWRITTEN)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PipesUnavailable, match="regular file"):
        Pipes(path).add(pipe())
    assert path.is_symlink()


def test_a_missing_directory_is_created(tmp_path: Path) -> None:
    pipes = Pipes(tmp_path / "absent" / "pipe.yaml")
    pipes.add(pipe())
    assert pipes.list() == [pipe()]


def test_an_unusable_path_is_reported_without_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PipesUnavailable, match="cannot be read or written") as error:
        Pipes(tmp_path / "file" / "pipe.yaml").check()
    assert str(tmp_path) not in str(error.value)


def test_a_file_that_is_not_there_has_no_version(path: Path, tmp_path: Path) -> None:
    assert Pipes(path).version() is None
    (tmp_path / "file").touch()
    assert Pipes(tmp_path / "file/pipe.yaml").version() is None


def test_a_removed_file_is_created_again(path: Path) -> None:
    pipes = Pipes(path)
    pipes.add(pipe())
    path.unlink()
    assert pipes.list() == []
    pipes.add(pipe("s2", "other"))
    assert pipes.list() == [pipe("s2", "other")]


def test_a_missing_file_is_written_even_if_no_pipe_is_wanted(path: Path) -> None:
    Pipes(path).replace(list)
    assert path.exists()
    assert Pipes(path).list() == []
    before = path.stat().st_ino
    Pipes(path).replace(list)
    assert path.stat().st_ino == before


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> Iterator[None]:
    def fail(*_arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, name, fail)
        yield


@pytest.mark.parametrize("step", ["fsync", "rename", "open"])
@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, PipesUnavailable)]
)
def test_a_failure_of_the_disk_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int, error: type[GatewayError]
) -> None:
    pipes = Pipes(path)
    pipes.add(pipe())
    before = path.read_bytes()
    with failing(monkeypatch, step, code), pytest.raises(error):
        pipes.add(pipe("s2", "other"))
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == [".pipe.yaml.lock", "pipe.yaml"]
    pipes.add(pipe("s2", "other"))
    assert len(pipes.list()) == 2


def test_the_temporary_file_of_a_killed_process_is_removed(path: Path) -> None:
    (path.parent / ".pipe.yaml.tmp").write_text("half")
    Pipes(path).add(pipe())
    assert sorted(os.listdir(path.parent)) == [".pipe.yaml.lock", "pipe.yaml"]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system of its own that has no room."""
    directory = tmp_path / "small"
    directory.mkdir()
    if os.system(f"mount -t tmpfs -o size=16k,mode=0700 tmpfs {directory} 2>/dev/null"):
        pytest.skip("only root mounts")
    yield directory
    os.system(f"umount {directory}")


def test_a_full_disk_is_reported_and_the_file_stays(full_disk: Path) -> None:
    pipes = Pipes(full_disk / "pipe.yaml")
    pipes.add(pipe())
    with pytest.raises(DiskFull, match="full"):
        pipes.replace(lambda: [pipe(f"s{number}", f"user{number}") for number in range(50)])
    assert pipes.list() == [pipe()]


# Many at once.


def _churn(path: Path, worker: int) -> None:
    pipes = Pipes(path)
    for number in range(10):
        pipes.add(pipe(f"s{worker}-{number}", f"user{worker}"))
        if number % 2:
            pipes.remove(f"s{worker}-{number}")


def _remaining(workers: int) -> set[str]:
    return {f"s{worker}-{number}" for worker in range(workers) for number in range(0, 10, 2)}


def test_processes_that_publish_concurrently_lose_nothing(path: Path) -> None:
    workers = [multiprocessing.get_context("spawn").Process(target=_churn, args=(path, n)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert {pipe.session_id for pipe in Pipes(path).list()} == _remaining(3)


def test_threads_that_publish_concurrently_lose_nothing(path: Path) -> None:
    pipes = Pipes(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: pipes.add(pipe(f"s{number}", f"user{number}")), range(40)))
    assert len(pipes.list()) == 40


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    pipes = Pipes(path)
    pipes.replace(lambda: [pipe(f"s{number}", f"user{number}") for number in range(200)])
    done = threading.Event()
    broken: list[str] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        while not done.is_set():
            text = path.read_text()
            reads += 1
            if END not in text or text.count('"session_id"') < 200:
                broken.append(text)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        pipes.add(pipe("changing", host=f"10.0.0.{number + 1}"))
    done.set()
    reader.join()
    assert reads > 40
    assert not broken


def test_an_edit_during_a_publication_is_not_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipes = Pipes(path)
    pipes.add(pipe())
    fsync: Callable[[int], None] = os.fsync

    def edit_meanwhile(descriptor: int) -> None:
        fsync(descriptor)
        path.write_text(path.read_text() + "# by hand\n")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", edit_meanwhile)
        with pytest.raises(PipesUnavailable, match="try again"):
            pipes.add(pipe("s2", "other"))
    pipes.add(pipe("s2", "other"))
    assert path.read_text().endswith("# by hand\n")
