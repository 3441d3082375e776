"""The embedded router's processes, and what they hold: connections, descriptors, memory."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.domain.ssh_logins import Kind, LoginReport
from gateway.repositories.files.login_socket import LoginSocket
from gateway.router.limits import MAX_LOGINS_PER_USER
from gateway.router.ssh.algorithms import Offer
from gateway.router.ssh.keys import load_private_key
from gateway.router.ssh.wire import SshError
from tests.fakes.raw_ssh import RawClient
from tests.routes.ground import USER, Client, Keys, Router, Sshd, make_router, until


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Router]:
    """A router that the test starts."""
    directory = tmp_path / "router"
    directory.mkdir()
    router = make_router("embedded", directory)
    yield router
    router.stop()


@pytest.fixture
def router(stopped: Router) -> Router:
    stopped.start(GATEWAY_ROUTER_PROCESSES="2")
    return stopped


@contextmanager
def connected(client: Client) -> "Iterator[subprocess.Popen[bytes]]":
    with client.running("echo ready; exec cat") as ssh:
        assert ssh.stdout
        assert ssh.stdout.readline() == b"ready\n"
        yield ssh


def echoes(ssh: "subprocess.Popen[bytes]") -> bool:
    assert ssh.stdin
    assert ssh.stdout
    ssh.stdin.write(b"still\n")
    ssh.stdin.flush()
    return ssh.stdout.readline() == b"still\n"


class Logins:
    """Logins of one user at the same time, by a client in this process."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.clients: list[RawClient] = []

    async def __aenter__(self) -> "Logins":
        return self

    async def __aexit__(self, *_error: object) -> None:
        await asyncio.gather(*(each.leave() for each in self.clients))

    async def add(self, count: int = 1, keeps: bool = True) -> RawClient:
        """The last of them. Raises the SshError with which the router refuses one."""
        for _ in range(count):
            raw = RawClient(self._client.router.public_key, keeps)
            self.clients.append(await raw.connect("127.0.0.1", self._client.router.port))
            key = load_private_key(self._client.keys.private.read_bytes())
            await raw.log_in(self._client.username, key)
        return self.clients[-1]


# Processes


def test_there_is_a_worker_for_each_core(stopped: Router) -> None:
    stopped.start()
    assert len(stopped.processes) == 1 + len(os.sched_getaffinity(0))


def test_a_worker_that_is_killed_costs_only_its_own_connections(client: Client) -> None:
    _, victim, survivor = client.router.processes
    with ExitStack() as stack:
        connections = [stack.enter_context(connected(client)) for _ in range(4)]
        os.kill(victim, signal.SIGKILL)
        until(lambda: sum(ssh.poll() is not None for ssh in connections) == 2)
        assert all(echoes(ssh) for ssh in connections if ssh.poll() is None)
        assert client.output("echo there") == "there\n"
    until(lambda: len(client.router.processes) == 3)
    assert survivor in client.router.processes
    assert "a worker process died" in client.router.log.read_text()


def test_all_workers_may_be_killed_again_and_again(client: Client) -> None:
    for _ in range(3):
        for worker in client.router.processes[1:]:
            os.kill(worker, signal.SIGKILL)
        until(lambda: client.run("true").returncode == 0)


def test_connections_outlive_a_supervisor_that_is_killed(client: Client) -> None:
    assert client.router.process is not None
    workers = client.router.processes[1:]
    with connected(client) as ssh:
        client.router.process.kill()
        client.router.process.wait()
        assert echoes(ssh)
        client.router.start()  # the port is free for the next one
        assert client.output("echo there") == "there\n"
        assert echoes(ssh)
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def test_another_router_takes_the_place_at_once_and_connections_go_on(client: Client) -> None:
    supervisor = client.router.process
    assert supervisor is not None
    with connected(client) as ssh:
        supervisor.send_signal(signal.SIGHUP)
        assert supervisor.wait(timeout=2) == 0
        client.router.start()
        assert client.output("echo there") == "there\n"
        assert echoes(ssh)


def test_what_outlives_the_supervisor_is_still_reported(client: Client) -> None:
    def closed() -> list[LoginReport]:
        datagram = receive(0.1)
        return [each for each in (datagram.reports if datagram else ()) if each.kind is Kind.CLOSED]

    with LoginSocket(client.router.config).listening() as receive:
        supervisor = client.router.process
        assert supervisor is not None
        with connected(client):
            supervisor.send_signal(signal.SIGHUP)
            assert supervisor.wait(timeout=2) == 0
            assert closed() == []
        reports: list[LoginReport] = []
        while not reports:
            reports += closed()
    [report] = reports
    assert (report.user, report.address, report.reason) == (USER, "127.0.0.1", "by the client")


def test_no_process_remains_after_the_stop(client: Client) -> None:
    processes = client.router.processes
    with connected(client):
        client.router.stop()
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


# Descriptors


def test_the_soft_limit_of_descriptors_is_raised(
    stopped: Router, sshd: Sshd, keys: Keys, tmp_path: Path
) -> None:
    stopped.start("prlimit", "--nofile=64:4096", GATEWAY_ROUTER_PROCESSES="1")
    stopped.pipes.replace(lambda: [sshd.pipe(USER, [keys.public])])

    async def work() -> None:
        async with Logins(Client(stopped, sshd, tmp_path, keys)) as logins:
            await logins.add(100)

    asyncio.run(work())


def test_a_router_without_descriptors_says_so_and_keeps_what_it_has(
    stopped: Router, sshd: Sshd, keys: Keys, tmp_path: Path
) -> None:
    stopped.start("prlimit", "--nofile=96:96", GATEWAY_ROUTER_PROCESSES="1")
    stopped.pipes.replace(lambda: [sshd.pipe(USER, [keys.public])])
    client = Client(stopped, sshd, tmp_path, keys)

    async def fill() -> None:
        async with Logins(client) as logins:
            with pytest.raises(SshError, match="the gateway has no capacity for another connection"):
                await logins.add(100)
            assert len(logins.clients) > 25
            refused = await asyncio.to_thread(client.run, "true")
            assert b"the gateway has no capacity for another connection" in refused.stderr
            assert await asyncio.to_thread(echoes, ssh)

    with connected(client) as ssh:
        asyncio.run(fill())
        until(lambda: client.run("true").returncode == 0)
        assert echoes(ssh)
    log = stopped.log.read_text()
    assert "Traceback" not in log
    assert "may be starting or ending" not in log


def test_the_logins_of_a_user_are_limited(client: Client, tmp_path: Path) -> None:
    client.router.pipes.add(client.sshd.pipe("user1", [client.keys.public]))
    other = Client(client.router, client.sshd, tmp_path, client.keys, "user1")

    async def fill() -> None:
        async with Logins(client) as logins:
            await logins.add(MAX_LOGINS_PER_USER)
            with pytest.raises(SshError, match="close some of them first"):
                await logins.add()
            assert await asyncio.to_thread(other.output, "echo there") == "there\n"
            await logins.clients[0].leave()
            await logins.add()

    asyncio.run(fill())


# Memory


async def memory_stays(client: Client, before: int) -> None:
    for _ in range(10):
        await asyncio.sleep(0.1)
        assert client.router.memory_mib - before < 10


async def _flooded(logins: Logins) -> RawClient:
    """A client to which the session writes as fast as it can. The window is 4 GiB."""
    raw = await logins.add(keeps=False)
    await raw.run("cat /dev/zero")
    await raw.until(lambda: raw.size > 1 << 20)
    return raw


def test_a_key_exchange_that_is_never_answered_fills_no_memory(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.output("true")
    before = client.router.memory_mib

    async def work() -> None:
        async with Logins(client) as logins:
            raw = await _flooded(logins)
            monkeypatch.setattr(raw.transport.exchange, "packet", lambda _payload: None)
            raw.send(Offer.make("client", ("ssh-ed25519",)).packet)
            await memory_stays(client, before)

    asyncio.run(work())


def test_a_client_that_does_not_read_fills_no_memory(client: Client) -> None:
    client.output("true")
    before = client.router.memory_mib

    async def work() -> None:
        async with Logins(client) as logins:
            raw = await _flooded(logins)
            assert raw.transport._stream is not None
            raw.transport._stream.pause_reading()
            await memory_stays(client, before)

    asyncio.run(work())


def test_an_idle_login_costs_at_most_150_kb(client: Client) -> None:
    async def work() -> None:
        async with Logins(client) as logins:
            await logins.add(10)  # what is allocated once
            before = client.router.memory_kib
            await logins.add(100)
            assert (client.router.memory_kib - before) / 100 < 150

    asyncio.run(work())
