"""The login of a user who waits in line: held after the key is proved, and let in when the session opens."""

import asyncio
import resource
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.domain.notice import Notice, NoticeState
from gateway.domain.pipe import Pipe
from gateway.repositories.files.notices import NoticeFiles
from tests.routes.ground import USER, Client, Keys, until
from tests.routes.held import IS_READY, TEXT, in_line, open_session, opening, wait_in_line


@pytest.fixture(autouse=True)
def _embedded(request: pytest.FixtureRequest) -> None:
    if request.getfixturevalue("router").kind != "embedded":
        pytest.skip("SSHPiper reads no notices")


@pytest.fixture
def pipe(client: Client) -> Iterator[Pipe]:
    """Of the session that opens later; the user waits in line."""
    with in_line(client.router.config) as pipe:
        yield pipe


def publish(client: Client, state: NoticeState, text: str) -> None:
    [pipe] = [client.sshd.pipe(USER, [client.keys.public])]
    notice = Notice(pipe.session_id, state, (client.keys.public,), text)
    NoticeFiles(client.router.config).update(USER, lambda: notice)


def test_a_login_waits_says_the_place_in_line_and_gets_in(client: Client, pipe: Pipe) -> None:
    with opening(client.router.config, pipe):
        done = client.run("-o", "LogLevel=INFO", "--", "echo inside")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"inside\n"
    assert done.stderr.decode().splitlines() == [f"  {TEXT}", f"  {IS_READY}"]


def test_a_quiet_client_waits_as_well(client: Client, pipe: Pipe) -> None:
    with opening(client.router.config, pipe):
        done = client.run("-q", "--", "echo inside")
    assert (done.stdout, done.stderr) == (b"inside\n", b"")


def test_an_impatient_client_is_kept_by_the_heartbeat(client: Client, pipe: Pipe) -> None:
    """OpenSSH would leave after six seconds without a packet."""
    patience = ("-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=2", "-o", "ConnectTimeout=5")
    with opening(client.router.config, pipe, seconds=9):
        done = client.run(*patience, "--", "echo inside")
    assert done.stdout == b"inside\n", done.stderr.decode()


def test_a_held_login_outlives_the_time_that_a_login_may_take(
    client: Client, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer of the handshake is 30 s; it ends with the proof of the key."""
    with opening(client.router.config, pipe, seconds=32):
        assert client.run("--", "echo inside").stdout == b"inside\n"


FEATURES: list[Callable[[Client], object]] = [
    lambda client: _equal(client.run("-tt", "--", "tty; exit 3").returncode, 3),
    lambda client: _equal(client.output("cat", input=b"x" * 300_000), "x" * 300_000),
    lambda client: _equal(client.output("-o", "SetEnv=ROUTE_TEST_A=b", "--", "echo $ROUTE_TEST_A"), "b\n"),
]


def _equal(found: object, expected: object) -> None:
    assert found == expected


@pytest.mark.parametrize("feature", FEATURES)
def test_the_session_is_whole_after_a_wait(
    client: Client, pipe: Pipe, feature: Callable[[Client], object]
) -> None:
    with opening(client.router.config, pipe, seconds=0.7):
        feature(client)


def test_scp_and_sftp_wait_as_well(client: Client, pipe: Pipe, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(b"a file")
    port = ("-P", str(client.router.port), "-q", "-o", f"User={USER}")
    with opening(client.router.config, pipe, seconds=0.7):
        command = ["scp", *client.options(*port), str(tmp_path / "here"), "127.0.0.1:there"]
        done = subprocess.run(command, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert client.sshd.inside("cat /home/user/there") == "a file"


def test_a_new_text_is_shown_at_most_once_a_minute(client: Client, pipe: Pipe) -> None:
    with client.running("-o", "LogLevel=INFO", "--", "echo inside") as process:
        time.sleep(1)
        for place in ("1st", "3rd", "4th"):
            publish(client, NoticeState.WAITING, f"You are {place} in line.")
            time.sleep(2.2)
        open_session(client.router.config, pipe)
        output, errors = process.communicate(timeout=20)
    assert output == b"inside\n"
    assert errors.decode().splitlines() == [f"  {TEXT}"]


def test_who_waits_no_more_reads_why_and_is_disconnected(client: Client, pipe: Pipe) -> None:
    ended = (client, NoticeState.ENDED, "Your wait for a session (3g.20gb) ended: nothing became free.")
    timer = threading.Timer(1, publish, ended)
    timer.start()
    done = client.run("-o", "LogLevel=INFO", "--", "echo inside")
    timer.join()
    assert done.returncode == 255
    assert "nothing became free" in done.stderr.decode()
    assert "no session" in done.stderr.decode()


def test_another_key_learns_nothing_of_the_line(client: Client, pipe: Pipe, tmp_path: Path) -> None:
    strange = Client(client.router, client.sshd, tmp_path, Keys.make(tmp_path / "strange"))
    done = strange.run("-o", "LogLevel=INFO", "--", "echo inside")
    assert b"Permission denied" in done.stderr
    assert b"in line" not in done.stderr


def test_a_user_has_at_most_five_held_logins(client: Client, pipe: Pipe) -> None:
    with ExitStack() as all_of_them:
        held = [
            all_of_them.enter_context(client.running("-o", "LogLevel=INFO", "--", "echo inside"))
            for _ in range(5)
        ]
        for process in held:
            assert process.stderr
            assert process.stderr.readline().decode().strip() == TEXT
        refused = client.run("-o", "LogLevel=INFO", "--", "echo inside")
        assert "5 of your logins wait already" in refused.stderr.decode()
        open_session(client.router.config, pipe)
        assert [process.communicate(timeout=30)[0] for process in held] == [b"inside\n"] * 5
    wait_in_line(client.router.config, pipe)
    with opening(client.router.config, pipe):
        assert client.run("--", "echo again").stdout == b"again\n"


def test_a_client_that_leaves_gives_its_place_among_the_held_logins_back(client: Client, pipe: Pipe) -> None:
    for _ in range(7):
        with client.running("-o", "LogLevel=INFO", "--", "echo inside") as process:
            assert process.stderr
            process.stderr.readline()
    with opening(client.router.config, pipe):
        done = client.run("--", "echo inside")
    assert done.stdout == b"inside\n", done.stderr.decode()


def test_200_held_logins_take_at_most_40_mb_and_next_to_no_processor_time(client: Client, pipe: Pipe) -> None:
    import asyncssh

    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    users = [f"held{number}" for number in range(50)]
    for user in users:
        wait_in_line(client.router.config, client.sshd.pipe(user, [client.keys.public]))
    before = client.router.memory_kib

    async def connect(user: str) -> None:
        options = {"client_keys": [str(client.keys.private)], "known_hosts": None, "login_timeout": 600}
        await asyncssh.connect("127.0.0.1", client.router.port, username=user, **options)

    async def hold() -> tuple[int, float]:
        tasks = []
        for number in range(200):
            tasks.append(asyncio.create_task(connect(users[number % 50])))
            await asyncio.sleep(0.04)
        for _ in range(150):
            await asyncio.sleep(0.2)
            if _established(client.router.port) >= 200:
                break
        await asyncio.sleep(5)
        assert not [task for task in tasks if task.done()]
        began, used = time.monotonic(), _processor_seconds(client)
        await asyncio.sleep(10)
        share = (_processor_seconds(client) - used) / (time.monotonic() - began)
        memory = client.router.memory_kib - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return memory, share

    memory, share = asyncio.run(hold())
    print(f"200 held logins: {memory / 1024:.1f} MiB, {100 * share:.1f} % of one processor")
    assert memory <= 40 * 1024
    assert share <= 0.5  # one that polls without a pause takes a whole processor
    until(lambda: _established(client.router.port) == 0)


def _established(port: int) -> int:
    """Connections that the router has accepted."""
    local = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return sum(line.split()[1] == local and line.split()[3] == "01" for line in lines[1:])


def _processor_seconds(client: Client) -> float:
    total = 0
    for pid in client.router.processes:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / 100
