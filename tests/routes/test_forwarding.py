"""Forwardings of every kind go through a router. The sshd itself is the service to be reached."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.routes.ground import SSHD_PORT, Client, free_port, run, speaks_ssh, until

SERVICE = f"127.0.0.1:{SSHD_PORT}"
GREETS = (
    "import socket,sys; print(socket.create_connection(('127.0.0.1',int(sys.argv[1]))).recv(99).decode())"
)


@contextmanager
def greeter() -> Iterator[int]:
    """A service on this side that says hello, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with closing(connection):
                    connection.sendall(b"hello from the client's side")

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@contextmanager
def forwarding(client: Client, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    with client.running("-N", "-o", "ExitOnForwardFailure=yes", *arguments, "--") as process:
        yield process


def greeted(client: Client, port: int) -> bool:
    return "hello" in client.sshd.inside(f'python3 -c "{GREETS}" {port} 2>&1 || true')


def test_a_local_port_leads_into_the_session(client: Client) -> None:
    port = free_port()
    with forwarding(client, "-L", f"127.0.0.1:{port}:{SERVICE}"):
        until(lambda: speaks_ssh("127.0.0.1", port))


def test_many_connections_share_a_local_port(client: Client) -> None:
    port = free_port()
    with forwarding(client, "-L", f"127.0.0.1:{port}:{SERVICE}"):
        until(lambda: speaks_ssh("127.0.0.1", port))
        connections = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(25)]
        assert all(connection.recv(4) == b"SSH-" for connection in connections)
        for connection in connections:
            connection.close()


def test_a_closed_port_in_the_session_is_refused_and_the_connection_stays(client: Client) -> None:
    closed, opened = free_port(), free_port()
    with forwarding(client, "-L", f"127.0.0.1:{closed}:127.0.0.1:9", "-L", f"127.0.0.1:{opened}:{SERVICE}"):
        until(lambda: speaks_ssh("127.0.0.1", opened))
        with socket.create_connection(("127.0.0.1", closed), timeout=10) as connection:
            assert connection.recv(4) == b""
        assert speaks_ssh("127.0.0.1", opened)


def test_a_local_socket_leads_into_the_session(client: Client, short_path: Path) -> None:
    path = short_path / "local"
    with forwarding(client, "-L", f"{path}:{SERVICE}"):
        until(path.exists)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(10)
            connection.connect(str(path))
            assert connection.recv(4) == b"SSH-"


def test_a_socket_in_the_session_is_reached_from_a_local_port(client: Client) -> None:
    port = free_port()
    path = f"/tmp/inner-{port}"
    serve = f"import socket; s=socket.socket(socket.AF_UNIX); s.bind('{path}'); s.listen(); "
    serve += "print('up', flush=True); c=s.accept()[0]; c.sendall(b'inner'); c.close()"
    with client.running("python3", "-c", f'"{serve}"') as serving:
        assert serving.stdout
        assert serving.stdout.readline() == b"up\n"
        with forwarding(client, "-L", f"127.0.0.1:{port}:{path}"):
            until(lambda: _received(port) == b"inner")


def _received(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return connection.recv(99)
    except OSError:
        return b""


def test_a_remote_port_leads_back_to_the_client(client: Client) -> None:
    port = free_port()
    with greeter() as local, forwarding(client, "-R", f"127.0.0.1:{port}:127.0.0.1:{local}"):
        until(lambda: greeted(client, port))


def test_a_remote_port_may_be_chosen_by_the_session(client: Client) -> None:
    with (
        greeter() as local,
        forwarding(client, "-v", "-o", "LogLevel=INFO", "-R", f"0:127.0.0.1:{local}") as ssh,
    ):
        assert ssh.stderr
        line = next(line for line in ssh.stderr if b"Allocated port" in line)
        until(lambda: greeted(client, int(line.split()[2])))


def test_a_remote_port_that_is_taken_is_refused(client: Client) -> None:
    with forwarding(client, "-R", f"127.0.0.1:{SSHD_PORT}:127.0.0.1:9") as ssh:
        assert ssh.wait(timeout=15) == 255


def test_a_remote_socket_leads_back_to_the_client(client: Client) -> None:
    path = f"/tmp/back-{client.router.port}"
    code = f"import socket; s=socket.socket(socket.AF_UNIX); s.connect('{path}'); print(s.recv(99))"
    with greeter() as local, forwarding(client, "-R", f"{path}:127.0.0.1:{local}"):
        until(lambda: "hello" in client.sshd.inside(f'python3 -c "{code}" 2>&1 || true'))


def test_a_remote_dynamic_port_leads_back_to_the_client(client: Client) -> None:
    port = free_port()
    with greeter() as local, forwarding(client, "-R", str(port)):
        ask = f"import socket; s=socket.create_connection(('127.0.0.1',{port})); "
        ask += "s.sendall(b'\\5\\1\\0'); s.recv(2); "
        ask += f"s.sendall(b'\\5\\1\\0\\1\\x7f\\0\\0\\1'+({local}).to_bytes(2,'big')); "
        ask += "s.recv(10); print(s.recv(99))"
        until(lambda: "hello" in client.sshd.inside(f'python3 -c "{ask}" 2>&1 || true'))


def test_a_dynamic_port_leads_anywhere_that_the_session_reaches(client: Client) -> None:
    port = free_port()
    with forwarding(client, "-D", f"127.0.0.1:{port}"):
        until(lambda: _through_socks(port) == b"SSH-")


def _through_socks(port: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"\x05\x01\x00")
            connection.recv(2)
            connection.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + SSHD_PORT.to_bytes(2, "big"))
            connection.recv(10)
            return connection.recv(4)
    except OSError:
        return b""


def test_standard_input_and_output_may_be_forwarded(client: Client) -> None:
    with client.running("-W", SERVICE, "--") as ssh:
        assert ssh.stdout
        assert ssh.stdout.read(4) == b"SSH-"


def test_a_session_may_be_jumped_through(client: Client) -> None:
    options = " ".join(client.options("-p", str(client.router.port), "-W", "%h:%p"))
    proxy = f"ProxyCommand=ssh {options} {client.username}@127.0.0.1"
    inner = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
    command = ["ssh", *inner, "-o", proxy, *client.options("-p", str(SSHD_PORT), "-l", "user1")]
    assert run(*command, "127.0.0.1", "echo $USER") == "user1"


def test_a_session_may_be_a_jump_host(client: Client, tmp_path: Path) -> None:
    """As `-J` has it: the jump host's options come from a configuration."""
    options = iter(client.options()[2:])
    lines = [f"  {option.replace('=', ' ', 1)}" for option in options if option != "-o"]
    jump = [f"Host jump\n  HostName 127.0.0.1\n  Port {client.router.port}\n  User {client.username}", *lines]
    inner = ["Host *\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR"]
    config = tmp_path / "config"
    config.write_text("\n".join([*jump, *inner, f"  IdentityFile {client.keys.private}\n"]))
    command = ["ssh", "-F", str(config), "-J", "jump", "-p", str(SSHD_PORT), "user1@127.0.0.1", "echo $USER"]
    assert run(*command) == "user1"


@pytest.fixture
def agent(client: Client, short_path: Path) -> Iterator[None]:
    path = short_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as process:
        until(path.exists)
        before = os.environ.get("SSH_AUTH_SOCK")
        os.environ["SSH_AUTH_SOCK"] = str(path)
        run("ssh-add", "-q", str(client.keys.private))
        yield
        process.terminate()
    if before is None:
        del os.environ["SSH_AUTH_SOCK"]
    else:
        os.environ["SSH_AUTH_SOCK"] = before


@pytest.mark.usefixtures("agent")
def test_an_agent_is_forwarded_when_it_is_asked_for(client: Client) -> None:
    assert client.keys.public.split()[1] in client.output("-A", "--", "ssh-add -L")


@pytest.mark.usefixtures("agent")
def test_an_agent_stays_at_home_otherwise(client: Client) -> None:
    assert client.run("ssh-add -L").returncode != 0


def test_a_shared_connection_takes_and_drops_a_forwarding(client: Client, short_path: Path) -> None:
    port = free_port()
    through = ("-S", str(short_path / "master"))
    forward = ("-L", f"127.0.0.1:{port}:{SERVICE}")
    with client.running("-M", "-N", *through, "--"):
        until(lambda: client.run("-O", "check", *through, "--").returncode == 0)
        assert client.run("-O", "forward", *forward, *through, "--").returncode == 0
        until(lambda: speaks_ssh("127.0.0.1", port))
        assert client.run("-O", "cancel", *forward, *through, "--").returncode == 0
        assert not speaks_ssh("127.0.0.1", port)


def test_a_shared_connection_takes_and_drops_a_remote_forwarding(client: Client, short_path: Path) -> None:
    port = free_port()
    through = ("-S", str(short_path / "master"))
    with greeter() as local, client.running("-M", "-N", *through, "--"):
        forward = ("-R", f"127.0.0.1:{port}:127.0.0.1:{local}")
        until(lambda: client.run("-O", "check", *through, "--").returncode == 0)
        assert client.run("-O", "forward", *forward, *through, "--").returncode == 0
        until(lambda: greeted(client, port))
        assert client.run("-O", "cancel", *forward, *through, "--").returncode == 0
        until(lambda: not greeted(client, port))
