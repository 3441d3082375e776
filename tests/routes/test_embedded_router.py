"""What the embedded router does beyond SSHPiper: it cuts, it tells why, it limits, and it ends well."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.errors import StartRefused
from gateway.router import serve
from gateway.router.worker import WATCH_SECONDS
from tests.fakes.pipe_parts import key_pair
from tests.routes.ground import (
    USER,
    Client,
    Keys,
    Router,
    Sshd,
    free_port,
    make_router,
    run,
    speaks_ssh,
    sshd_container,
    until,
)
from tests.routes.test_refusing import handwritten, refused, write


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    directory = tmp_path / "router"
    directory.mkdir()
    router = make_router("embedded", directory)
    router.start()
    yield router
    router.stop()


@contextmanager
def connected(client: Client) -> "Iterator[subprocess.Popen[bytes]]":
    with client.running("echo ready; exec sleep 60") as ssh:
        assert ssh.stdout
        assert ssh.stdout.readline() == b"ready\n"
        yield ssh


def cut(ssh: "subprocess.Popen[bytes]", seconds: float = 3) -> str:
    """Return the reason that the client reads when its connection is closed, within so many seconds."""
    begun = time.monotonic()
    assert ssh.wait(timeout=15) == 255
    assert time.monotonic() - begun < seconds
    assert ssh.stderr
    return ssh.stderr.read().decode()


@contextmanager
def stopped(sshd: Sshd) -> Iterator[None]:
    """The kernel still accepts connections for it."""
    run("docker", "pause", sshd.container)
    try:
        yield
    finally:
        run("docker", "unpause", sshd.container)


def test_a_removed_pipe_cuts_its_connections(client: Client) -> None:
    with connected(client) as ssh:
        client.router.pipes.remove(f"session-of-{USER}")
        assert "the session has ended" in cut(ssh)


def test_a_removed_key_cuts_its_connections(client: Client, tmp_path: Path) -> None:
    other = Keys.make(tmp_path / "other")
    client.router.pipes.add(client.sshd.pipe(USER, [client.keys.public, other.public]))
    with connected(client) as ssh, connected(Client(client.router, client.sshd, tmp_path, other)) as stays:
        client.router.pipes.add(client.sshd.pipe(USER, [other.public]))
        assert "the key of this connection was removed" in cut(ssh)
        assert stays.poll() is None


@pytest.mark.parametrize("keeps_pipe", [True, False])
def test_a_login_on_its_way_into_the_session_does_not_outlive_its_key(
    client: Client, tmp_path: Path, keeps_pipe: bool
) -> None:
    other = Keys.make(tmp_path / "other")
    pipe = client.sshd.pipe(USER, [other.public])
    with stopped(client.sshd), client.running("echo inside") as ssh:
        until(lambda: client.sshd.has_connections)
        client.router.pipes.replace(lambda: [pipe] if keeps_pipe else [])
        reason = "the key of this connection was removed" if keeps_pipe else "the session has ended"
        assert reason in cut(ssh)
        assert ssh.stdout
        assert ssh.stdout.read() == b""


def test_a_pipe_that_leads_elsewhere_now_cuts_its_connections(client: Client) -> None:
    with connected(client) as ssh:
        client.router.pipes.add(client.sshd.pipe(USER, [client.keys.public], host_key=key_pair()[1]))
        assert "another session has taken its place" in cut(ssh)


def test_other_users_pipes_cut_nobody(client: Client, tmp_path: Path) -> None:
    with connected(client) as ssh:
        client.router.pipes.add(client.sshd.pipe("user2", [client.keys.public]))
        client.router.pipes.add(client.sshd.pipe("user3", [client.keys.public]))
        client.router.pipes.remove("session-of-user2")
        with connected(Client(client.router, client.sshd, tmp_path, client.keys, "user3")) as other:
            client.router.pipes.remove("session-of-user3")
            cut(other)
        assert ssh.poll() is None


def test_a_broken_file_cuts_nobody_for_it_is_unknown_who_should_be(client: Client) -> None:
    good = client.router.config.read_text()
    with connected(client) as ssh:
        write(client.router, good + "\n broken: [\n")
        until(lambda: "nobody gets in" in client.router.log.read_text())
        write(client.router, good + "# mended\n")
        assert client.output("echo there") == "there\n"
        assert ssh.poll() is None


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("")])
def test_a_file_that_is_lost_cuts_nobody_for_the_gateway_writes_it_again(
    client: Client, damage: Callable[[Path], object]
) -> None:
    good = client.router.config.read_text()
    with connected(client) as ssh:
        damage(client.router.config)
        with pytest.raises(subprocess.TimeoutExpired):
            ssh.wait(timeout=3 * WATCH_SECONDS)
        assert refused(client)
        write(client.router, good)
        assert client.output("echo there") == "there\n"
        assert ssh.poll() is None
        client.router.pipes.replace(list)
        assert "the session has ended" in cut(ssh)


def test_an_unreachable_session_is_told_to_the_client(client: Client) -> None:
    pipe = client.sshd.pipe(USER, [client.keys.public], port=9)
    client.router.pipes.replace(lambda: [pipe])
    assert b"the session is not reachable" in refused(client).stderr


def test_a_session_that_has_left_the_network_is_told_to_the_client(client: Client) -> None:
    network = client.sshd.host.rpartition(".")[0]
    pipe = client.sshd.pipe(USER, [client.keys.public], host=f"{network}.254")
    client.router.pipes.replace(lambda: [pipe])
    assert b"it has ended, or it is starting" in refused(client).stderr


def test_a_session_that_refuses_the_gateway_s_key_is_told_to_the_client(client: Client) -> None:
    pipe = client.sshd.pipe(USER, [client.keys.public], private_key=key_pair()[0])
    client.router.pipes.replace(lambda: [pipe])
    assert b"does not accept the gateway's key" in refused(client).stderr


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (b"Exceeded MaxStartups\r\n", b"(Exceeded MaxStartups)"),
        (b"", b"may be ending, or out of processes"),
        (b"HTTP/1.1 400\r\n\r\n", b"(HTTP/1.1 400)"),
    ],
)
def test_an_sshd_that_closes_at_once_is_told_to_the_client(
    client: Client, greeting: bytes, words: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        pipe = client.sshd.pipe(USER, [client.keys.public], host="127.0.0.1", port=port)
        client.router.pipes.replace(lambda: [pipe])

        def greet() -> None:
            connection, _ = server.accept()
            connection.sendall(greeting)
            connection.close()

        thread = threading.Thread(target=greet)
        thread.start()
        assert words in refused(client).stderr
        thread.join()


def test_a_container_that_is_killed_is_told_as_the_session_s_end(
    client: Client, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with sshd_container(tmp_path_factory.mktemp("killed"), [USER], []) as sshd:
        client.router.pipes.add(sshd.pipe(USER, [client.keys.public]))
        with connected(Client(client.router, sshd, tmp_path, client.keys)) as ssh:
            run("docker", "kill", sshd.container)
            # The router asks the address, and waits 3 s for a gateway that knows more. There is none here.
            assert "the session has ended" in cut(ssh, seconds=10)


def test_a_connection_whose_own_sshd_is_killed_is_not_told_as_the_session_s_end(client: Client) -> None:
    with client.running("echo ready; sleep 0.5; kill -9 $PPID") as ssh:
        told = cut(ssh)
    assert "the session closed the connection" in told
    assert "ended" not in told


def test_a_changed_host_key_is_told_to_the_client(client: Client) -> None:
    pipe = client.sshd.pipe(USER, [client.keys.public], host_key=key_pair()[1])
    client.router.pipes.replace(lambda: [pipe])
    assert b"host key is not the one" in refused(client).stderr


@pytest.mark.parametrize("missing", ["authorized_keys_data", "private_key_data", "known_hosts_data"])
def test_a_pipe_that_lacks_a_part_is_not_served_and_the_others_are(
    client: Client, tmp_path: Path, missing: str
) -> None:
    lacking = handwritten(client.sshd, client.keys, **{missing: '""'})
    write(client.router, f"pipes:\n{lacking}{handwritten(client.sshd, client.keys, 'whole')}")
    refused(client)
    assert (
        Client(client.router, client.sshd, tmp_path, client.keys, "whole").output("echo $USER") == "user1\n"
    )
    assert client.router.log.read_text().count("a pipe is not served") == 1


def test_a_pipe_that_must_not_be_served_hides_those_below_it(client: Client) -> None:
    lacking = handwritten(client.sshd, client.keys, authorized_keys_data='""')
    write(client.router, f"pipes:\n{lacking}{handwritten(client.sshd, client.keys)}")
    refused(client)


def test_a_client_that_tries_too_many_keys_is_cut(client: Client, tmp_path: Path) -> None:
    wrong = [Keys.make(tmp_path / f"wrong{number}") for number in range(20)]
    first = [part for keys in wrong for part in ("-i", str(keys.private))]
    assert b"Too many authentication failures" in refused(client, *first).stderr


def test_logins_are_told_in_one_line_each_and_no_key_is(client: Client, tmp_path: Path) -> None:
    client.output("true")
    refused(Client(client.router, client.sshd, tmp_path, Keys.make(tmp_path / "wrong")))
    facts = f"user_id={USER} address=127.0.0.1 session_id=session-of-{USER}"
    lines = ("connection closed", f'"login accepted" {facts}', f'"login refused" {facts}')
    until(lambda: all(line in client.router.log.read_text() for line in lines))
    log = client.router.log.read_text()
    assert "PRIVATE KEY" not in log
    assert client.keys.public.split()[1] not in log


def test_a_client_that_stands_still_costs_no_memory(client: Client) -> None:
    client.output("true")
    before = client.router.memory_mib
    with client.running("head -c 200000000 /dev/zero") as ssh:
        assert ssh.stdout
        ssh.stdout.read(1)
        ssh.send_signal(signal.SIGSTOP)
        time.sleep(1)  # for what would come, were it not held back
        assert client.router.memory_mib - before < 20
        ssh.send_signal(signal.SIGCONT)


# Its start and its end.


def test_connections_go_on_after_the_first_sigterm(client: Client) -> None:
    process = client.router.process
    assert process is not None
    with client.running("cat") as ssh:
        assert ssh.stdin
        assert ssh.stdout
        ssh.stdin.write(b"before\n")
        ssh.stdin.flush()
        assert ssh.stdout.readline() == b"before\n"
        process.send_signal(signal.SIGTERM)
        until(lambda: not speaks_ssh("127.0.0.1", client.router.port))
        ssh.stdin.write(b"after\n")
        ssh.stdin.close()
        assert ssh.stdout.readline() == b"after\n"
        assert ssh.wait(timeout=10) == 0
    assert process.wait(timeout=10) == 0


def test_the_second_sigterm_ends_it(client: Client) -> None:
    process = client.router.process
    assert process is not None
    with connected(client) as ssh:
        process.send_signal(signal.SIGTERM)
        until(lambda: not speaks_ssh("127.0.0.1", client.router.port))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert "the gateway is stopping" in cut(ssh)


def test_the_host_key_is_made_once_and_kept(router: Router) -> None:
    public = router.directory / "ssh_host_ed25519_key.pub"
    first = public.read_text()
    assert stat.S_IMODE(router.host_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    router.stop()
    router.start()
    assert public.read_text() == first


def test_it_refuses_a_port_that_is_taken(router: Router) -> None:
    with pytest.raises(
        StartRefused, match=f"cannot listen on 127.0.0.1:{router.port}: Address already in use"
    ):
        serve(router.config, [("127.0.0.1", router.port)], router.host_key)


@pytest.mark.parametrize(
    ("mode", "content", "told"), [(0o644, None, "chmod 600"), (0o600, "x", "not a private key")]
)
def test_it_refuses_a_host_key_that_cannot_be_used(
    tmp_path: Path, mode: int, content: str | None, told: str
) -> None:
    key = tmp_path / "key"
    key.write_text(content or key_pair()[0])
    key.chmod(mode)
    with pytest.raises(StartRefused, match=told):
        serve(tmp_path / "pipe.yaml", [("127.0.0.1", free_port())], key)


def test_it_takes_the_socket_that_systemd_opened(router: Router) -> None:
    router.stop()
    with socket.create_server(("127.0.0.1", 0)) as passed:
        os.set_inheritable(passed.fileno(), True)
        code = "import os,sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), "
        code += "LISTEN_FDS='1'); os.execvp(sys.argv[2], sys.argv[2:])"
        router.command = [sys.executable, "-c", code, str(passed.fileno()), *router.command]
        router.port = passed.getsockname()[1]
        process = subprocess.Popen(router.command, pass_fds=[passed.fileno()], stderr=subprocess.DEVNULL)
        router.process = process
        until(lambda: speaks_ssh("127.0.0.1", router.port))
        router.stop()
