"""The embedded router as an account of its own: root starts it, and it gives root up."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.domain.notice import Notice, NoticeState
from gateway.repositories.files.notices import NoticeFiles
from tests.routes.ground import USER, Client, Keys, Router, Sshd, make_router, until

NAME = "nobody"  # an account without rights that every Linux has
ACCOUNT = pwd.getpwnam(NAME)

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another account")


@pytest.fixture
def directory() -> Iterator[Path]:
    """Other accounts can enter it, as /etc/sshpiper."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def router(directory: Path) -> Iterator[Router]:
    router = make_router("embedded", directory)
    router.start(GATEWAY_ROUTER_USER=NAME, GATEWAY_ROUTER_PROCESSES="2")
    yield router
    router.stop()


@pytest.fixture
def client(router: Router, sshd: Sshd, keys: Keys, tmp_path: Path) -> Client:
    router.pipes.replace(lambda: [sshd.pipe(USER, [keys.public])])
    return Client(router, sshd, tmp_path, keys)


def prepare(directory: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    gateway = str(Path(sys.executable).with_name("gateway"))
    command = [gateway, "router", "--piper-config", str(directory / "pipe.yaml"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def rights(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_users_log_in_and_no_process_has_a_right_of_root(router: Router, client: Client) -> None:
    assert client.run("echo in").stdout == b"in\n"
    uids, gids = "\t".join([str(ACCOUNT.pw_uid)] * 4), "\t".join([str(ACCOUNT.pw_gid)] * 4)
    for pid in router.processes:
        found = rights(pid)
        assert (found["Uid"], found["Gid"], found["Groups"]) == (uids, gids, "")
        assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == 0


def test_a_route_that_the_gateway_publishes_later_is_served(
    router: Router, client: Client, sshd: Sshd, keys: Keys
) -> None:
    router.pipes.replace(lambda: ())
    assert client.run("true").returncode == 255
    router.pipes.add(sshd.pipe(USER, [keys.public]))
    found = router.config.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (ACCOUNT.pw_uid, 0o600)
    assert client.run("echo in").stdout == b"in\n"


def test_a_worker_that_is_killed_is_replaced_without_root(router: Router, client: Client) -> None:
    for pid in router.processes[1:]:
        os.kill(pid, 9)
    until(lambda: "a worker process died" in router.log.read_text())
    until(lambda: len(router.processes) == 3)
    assert client.run("echo in").stdout == b"in\n"


def test_the_user_reads_why_the_session_ended(router: Router, client: Client, keys: Keys) -> None:
    router.pipes.replace(lambda: ())
    text = "Your session ended today: its lease was over."
    notice = Notice("9d0ac5e3-25c6-416e-b600-47a50d0c0c76", NoticeState.ENDED, (keys.public,), text)
    NoticeFiles(router.config).update(USER, lambda: notice)
    assert text.encode() in client.run("-o", "LogLevel=INFO", "--", "true").stderr


def test_a_second_start_keeps_the_host_keys_and_the_routes(router: Router, client: Client) -> None:
    before = router.known_hosts
    router.stop()
    router.start(GATEWAY_ROUTER_USER=NAME)
    assert router.known_hosts == before
    assert client.run("echo in").stdout == b"in\n"


def test_prepare_gives_the_files_away_and_ends(directory: Path) -> None:
    done = prepare(directory, "--user", NAME, "--prepare")
    assert (done.returncode, done.stderr) == (0, "")
    given = [directory / "pipe.yaml", *directory.glob("ssh_host_*_key")]
    assert len(given) == 4
    assert {(path.stat().st_uid, path.stat().st_mode & 0o777) for path in given} == {(ACCOUNT.pw_uid, 0o600)}
    assert directory.stat().st_uid == 0


def test_a_router_that_starts_as_its_account_needs_no_root(directory: Path, client: Client) -> None:
    """As under systemd, whose unit names the account."""
    client.router.stop()
    client.router.start("setpriv", f"--reuid={NAME}", f"--regid={ACCOUNT.pw_gid}", "--clear-groups")
    assert client.run("echo in").stdout == b"in\n"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--user", "no-such-account"), "useradd --system"),
        (("--user", "root"), "is root"),
        (("--prepare",), "--prepare needs --user"),
    ],
)
def test_an_account_that_cannot_be_used_is_one_line(
    directory: Path, arguments: tuple[str, ...], reason: str
) -> None:
    done = prepare(directory, *arguments)
    assert done.returncode != 0
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
