"""What clients of all makes see while their login is held, and that they get in when the session is ready."""

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncssh
import paramiko
import pytest

from gateway.domain.pipe import Pipe
from tests.routes.ground import SSHD_PORT, Client, free_port, speaks_ssh, until
from tests.routes.held import IS_READY, TEXT, in_line, opening
from tests.routes.test_other_clients import putty  # noqa: F401 (a fixture)

BOTH = f"  {TEXT}\n  {IS_READY}\n"
ALOUD = ("-o", "LogLevel=INFO")  # so that OpenSSH prints the texts


@pytest.fixture
def pipe(client: Client) -> Iterator[Pipe]:
    """Of the session that opens later; the user waits in line."""
    if client.router.kind != "embedded":
        pytest.skip("SSHPiper reads no notices")
    with in_line(client.router.config) as pipe:
        yield pipe


def test_plink_gets_in_and_prints_the_texts_then(
    client: Client,
    pipe: Pipe,
    putty: list[str],  # noqa: F811
) -> None:
    """PuTTY keeps banners until the login ends, and prints them on a terminal, or with -v."""
    command = ["plink", "-v", *putty, "127.0.0.1", "echo there"]
    with opening(client.router.config, pipe):
        done = subprocess.run(command, input=b"", capture_output=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, b"there\n"), done.stderr
    assert f"|   {TEXT}\n|   {IS_READY}\nEnd of banner" in done.stderr.decode().replace("\r", "")


def test_paramiko_has_the_first_text_as_its_banner_and_gets_in(client: Client, pipe: Pipe) -> None:
    with paramiko.SSHClient() as ssh, opening(client.router.config, pipe):
        client.log_in(ssh)
        assert ssh.exec_command("echo there")[1].read() == b"there\n"
        transport = ssh.get_transport()
        assert transport
        banner = transport.get_banner()
    assert banner
    assert banner.decode() in (f"  {TEXT}\n", f"  {IS_READY}\n")  # paramiko keeps the last one


def test_asyncssh_reads_both_texts_and_gets_in(client: Client, pipe: Pipe) -> None:
    read: list[str] = []

    class Reader(asyncssh.SSHClient):
        def auth_banner_received(self, msg: str, lang: str) -> None:
            read.append(msg)

    async def work() -> None:
        async with asyncssh.connect(
            "127.0.0.1",
            client.router.port,
            username=client.username,
            config=None,
            known_hosts=asyncssh.import_known_hosts(client.router.known_hosts),
            client_keys=[str(client.keys.private)],
            client_factory=Reader,
        ) as ssh:
            assert (await ssh.run("echo there", check=True)).stdout == "there\n"

    with opening(client.router.config, pipe):
        asyncio.run(work())
    assert "".join(read) == BOTH


def test_a_shared_connection_waits_once_for_all_that_share_it(
    client: Client, pipe: Pipe, short_path: Path
) -> None:
    path = short_path / "control"
    shared = ("-o", f"ControlPath={path}")
    master = client.ssh(*ALOUD, *shared, "-o", "ControlMaster=yes", "-N")
    with subprocess.Popen(master, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert process.stderr.readline().decode() == f"  {TEXT}\n"
        assert not path.exists()
        with opening(client.router.config, pipe):
            until(path.exists, seconds=30)
        assert client.output(*shared, "--", "echo there") == "there\n"
        client.run(*shared, "-O", "exit", "--")
        assert process.stderr.readline().decode() == f"  {IS_READY}\n"


def test_who_jumps_through_the_session_waits_for_it(client: Client, pipe: Pipe, tmp_path: Path) -> None:
    options = iter(client.options(*ALOUD)[2:])
    lines = [f"  {option.replace('=', ' ', 1)}" for option in options if option != "-o"]
    jump = [f"Host jump\n  HostName 127.0.0.1\n  Port {client.router.port}\n  User {client.username}", *lines]
    inner = "Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR"
    config = tmp_path / "config"
    config.write_text("\n".join([*jump, inner, f"  IdentityFile {client.keys.private}\n"]))
    command = ["ssh", "-F", str(config), "-J", "jump", "-p", str(SSHD_PORT), "user1@127.0.0.1", "echo $USER"]
    with opening(client.router.config, pipe):
        done = subprocess.run(command, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr.decode()) == (b"user1\n", BOTH)


def test_an_editor_s_script_and_its_ports_work_after_the_wait(client: Client, pipe: Pipe) -> None:
    """As VS Code does it: `ssh -T -D port host bash` with a script as its input, then further connections."""
    dynamic, local = free_port(), free_port()
    script = b"echo 1f2e: running\nuname -s\nsleep 2\necho 1f2e: end\n"
    forwards = ("-D", str(dynamic), "-L", f"127.0.0.1:{local}:127.0.0.1:{SSHD_PORT}")
    with client.running("-T", *forwards, "-o", "ConnectTimeout=15", "--", "bash") as editor:
        assert editor.stdin
        assert editor.stdout
        editor.stdin.write(script)
        editor.stdin.flush()
        with opening(client.router.config, pipe), ExitStack() as more:
            assert editor.stdout.readline() == b"1f2e: running\n"
            assert editor.stdout.readline() == b"Linux\n"
            assert speaks_ssh("127.0.0.1", local)
            through = more.enter_context(socket.create_connection(("127.0.0.1", dynamic), timeout=10))
            through.sendall(b"\x05\x01\x00")
            assert through.recv(2) == b"\x05\x00"
            through.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + SSHD_PORT.to_bytes(2))
            assert through.recv(10)[:2] == b"\x05\x00"
            assert through.recv(4) == b"SSH-"
        assert editor.stdout.readline() == b"1f2e: end\n"
        editor.stdin.close()
        assert editor.wait(timeout=30) == 0
    assert client.output("--", "echo there") == "there\n"
