"""Commands and shells through a router are what they are without one."""

import hashlib
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.routes.ground import Client, Keys, run, until

MEGABYTE = 1 << 20


@contextmanager
def terminal(
    client: Client, *arguments: str, rows: int = 33, columns: int = 111
) -> Iterator[tuple[int, int]]:
    """ssh with a terminal of its own: its pid and the terminal's other end."""
    pid, descriptor = pty.fork()
    if pid == 0:
        termios.tcsetwinsize(0, (rows, columns))
        command = client.ssh(*arguments)
        os.execvp(command[0], command)
    try:
        yield pid, descriptor
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(descriptor)


def read_until(descriptor: int, text: str) -> str:
    seen = b""
    deadline = time.monotonic() + 15
    while text.encode() not in seen:
        assert time.monotonic() < deadline, seen
        try:
            seen += os.read(descriptor, 65536)
        except OSError as error:
            raise AssertionError(seen) from error
    return seen.decode()


def test_a_command_runs_as_the_upstream_user(client: Client) -> None:
    assert client.output("whoami") == "user123\n"


def test_a_shell_reads_commands_from_its_input(client: Client) -> None:
    assert client.output("--", input=b"echo one; echo two\n") == "one\ntwo\n"


@pytest.mark.parametrize("code", [0, 1, 42, 126, 127, 255])
def test_the_exit_code_is_the_command_s(client: Client, code: int) -> None:
    assert client.run(f"exit {code}").returncode == code


@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_a_command_that_a_signal_ends_is_reported_so(client: Client, name: str) -> None:
    done = client.run("-o", "LogLevel=DEBUG1", "--", f"kill -{name} $$")
    assert done.returncode == 255
    assert b"exit-signal" in done.stderr


def test_input_arrives_whole_and_to_its_end(client: Client) -> None:
    data = os.urandom(3 * MEGABYTE)
    assert client.output("sha256sum", input=data).split()[0] == hashlib.sha256(data).hexdigest()


def test_output_follows_the_end_of_the_input(client: Client) -> None:
    assert client.output("cat; sleep 0.2; echo after", input=b"before\n") == "before\nafter\n"


@pytest.mark.parametrize("command", ["yes", "while echo y; do sleep 0.2; done"], ids=["fast", "slow"])
def test_a_command_ends_when_nobody_reads_its_output_any_more(client: Client, command: str) -> None:
    """`ssh gw yes | head -1`: OpenSSH reports a closed output only to a peer that names itself OpenSSH."""
    if client.router.kind == "sshpiper":
        pytest.xfail("SSHPiper does not name itself OpenSSH to either side")
    with client.running(command) as ssh:
        assert ssh.stdout
        assert ssh.stdout.readline() == b"y\n"
        ssh.stdout.close()
        ssh.wait(timeout=10)


def test_errors_are_apart_from_the_output(client: Client) -> None:
    done = client.run("echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_much_on_both_outputs_at_once_arrives_whole(client: Client) -> None:
    done = client.run("head -c 2000000 /dev/zero & head -c 2000000 /dev/zero >&2; wait")
    assert (len(done.stdout), len(done.stderr)) == (2000000, 2000000)


def test_every_byte_passes_unchanged(client: Client) -> None:
    data = bytes(range(256)) * 3
    assert client.run("cat", input=data).stdout == data


def test_a_command_need_not_be_utf8(client: Client) -> None:
    assert client.run(os.fsdecode(b"printf %s '\xff\xfe' | od -An -tx1")).stdout.split() == [b"ff", b"fe"]


def test_a_long_command_arrives_whole(client: Client) -> None:
    assert client.output(f"printf %s {'x' * 50000} | wc -c") == "50000\n"


def test_the_environment_that_sshd_accepts_arrives(client: Client) -> None:
    assert client.output("-o", "SetEnv=ROUTE_TEST_A=hello", "--", "echo $ROUTE_TEST_A") == "hello\n"


def test_a_terminal_has_the_client_s_size_and_kind(client: Client) -> None:
    with terminal(client, "-tt", "--", "tty; stty size; echo $TERM-end") as (_, descriptor):
        seen = read_until(descriptor, "-end")
    assert "/dev/pts/" in seen
    assert "33 111" in seen
    assert f"{os.environ.get('TERM', '')}-end" in seen


def test_a_terminal_follows_the_client_s_resize(client: Client) -> None:
    command = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"
    with terminal(client, "-tt", "--", command) as (pid, descriptor):
        read_until(descriptor, "ready")
        termios.tcsetwinsize(descriptor, (44, 122))
        os.kill(pid, signal.SIGWINCH)
        read_until(descriptor, "44 122")


def test_an_interrupt_key_interrupts_the_command(client: Client) -> None:
    with terminal(client, "-tt", "--", "trap 'echo interrupted' INT; echo ready; sleep 20") as (
        _,
        descriptor,
    ):
        read_until(descriptor, "ready")
        os.write(descriptor, b"\x03")
        read_until(descriptor, "interrupted")


def test_an_interactive_shell_answers(client: Client) -> None:
    with terminal(client, "-tt") as (_, descriptor):
        os.write(descriptor, b"echo $((6 * 7))-fold\n")
        read_until(descriptor, "42-fold")


def test_a_client_that_is_killed_takes_its_terminal_along(client: Client) -> None:
    with terminal(client, "-tt", "--", "echo ready; exec sleep 1234") as (_, descriptor):
        read_until(descriptor, "ready")
    until(lambda: "sleep 1234" not in client.sshd.inside("ps -eo args"))


def test_an_unknown_subsystem_is_refused_and_the_connection_stays(client: Client, short_path: Path) -> None:
    with master(client, short_path) as through:
        assert client.run("-s", *through, "--", "nonsense").returncode != 0
        assert client.output(*through, "--", "echo there") == "there\n"


@contextmanager
def master(client: Client, short_path: Path) -> Iterator[tuple[str, ...]]:
    through = ("-S", str(short_path / "master"))
    with client.running("-M", "-N", *through, "--"):
        until(lambda: client.run("-O", "check", *through, "--").returncode == 0)
        yield through


def test_many_sessions_share_one_connection(client: Client, short_path: Path) -> None:
    with master(client, short_path) as through:
        running = [
            subprocess.Popen(client.ssh(*through, "--", f"sleep 0.2; echo {n}"), stdout=subprocess.PIPE)
            for n in range(9)
        ]
        assert [process.communicate(timeout=20)[0] for process in running] == [b"%d\n" % n for n in range(9)]


def test_a_shared_connection_ends_when_it_is_told(client: Client, short_path: Path) -> None:
    with master(client, short_path) as through:
        assert client.run("-O", "exit", *through, "--").returncode == 0
        until(lambda: client.run("-O", "check", *through, "--").returncode != 0)


def test_keep_alives_are_answered(client: Client) -> None:
    alive = ("-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=1")
    assert client.output(*alive, "--", "sleep 3; echo still") == "still\n"


def test_compression_may_be_asked_for(client: Client) -> None:
    assert client.output("-C", "--", "echo there") == "there\n"


@pytest.mark.parametrize(
    "cipher",
    ["chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes256-ctr"],
)
def test_a_client_may_choose_its_cipher(client: Client, cipher: str) -> None:
    assert client.output("-c", cipher, "--", "echo there") == "there\n"


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_a_user_s_key_may_be_of_any_kind(client: Client, tmp_path: Path, kind: str) -> None:
    file = tmp_path / kind
    run("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(file))
    keys = Keys(file, file.with_suffix(".pub").read_text().strip())
    pipe = client.sshd.pipe(client.username, [keys.public])
    client.router.pipes.replace(lambda: [pipe])
    assert Client(client.router, client.sshd, tmp_path, keys).output("echo there") == "there\n"


@pytest.mark.parametrize("direction", ["up", "down"])
def test_keys_are_exchanged_anew_amid_a_transfer(client: Client, direction: str) -> None:
    data = os.urandom(12 * MEGABYTE)
    if direction == "up":
        found = client.output("-o", "RekeyLimit=1M", "--", "sha256sum", input=data).split()[0]
        assert found == hashlib.sha256(data).hexdigest()
    else:
        done = client.run("-o", "RekeyLimit=1M", "--", "head -c 12582912 /dev/zero")
        assert done.stdout == bytes(12 * MEGABYTE)


def test_clients_do_not_learn_the_container_s_host_keys(client: Client) -> None:
    client.output("-o", "UpdateHostKeys=yes", "--", "true")
    known_hosts = (client.directory / "known_hosts").read_text()
    assert client.sshd.host_key.split()[1] not in known_hosts
