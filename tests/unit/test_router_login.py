"""A login as the router sees it: how much time there is for it, and what is said of one that fails."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.domain.notice import Notice, NoticeState
from gateway.repositories.files.pipes import Pipes
from gateway.router import host_key
from gateway.router.limits import LEFT_LATER, REFUSED
from gateway.router.login import (
    EXCHANGE_SECONDS,
    KEY_REMOVED,
    LOGIN_SECONDS,
    SESSION_ENDED,
    SESSION_REPLACED,
    Login,
)
from gateway.router.route import Route
from gateway.router.routes import Routes
from gateway.router.ssh import wire
from gateway.router.ssh.algorithms import Offer
from gateway.router.ssh.keys import PrivateKey, load_private_key
from gateway.router.ssh.transport import Transport
from gateway.router.ssh.wire import plain_packet, string
from tests.fakes.pipe_parts import key_pair, pipe
from tests.fakes.raw_ssh import RawClient

USER = "user123"
KEY = load_private_key(key_pair()[0].encode())
PUBLIC_KEY = f"ssh-ed25519 {b64encode(KEY.blob).decode()}"


@pytest.fixture(scope="module")
def host_keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrivateKey]:
    return host_key.load_all([tmp_path_factory.mktemp("keys") / "ssh_host_ed25519_key"])


class Context:
    """Of a user who waits in line, until there is a `route`. No login is counted before `counts` is set."""

    is_lobby = False
    knows_routes = True

    def __init__(self, host_keys: Mapping[str, PrivateKey]) -> None:
        self.host_keys = host_keys
        self.reports: list[dict[str, Any]] = []
        self.is_empty = asyncio.Event()
        self.route: Route | None = None
        self.is_asked, self.counts = asyncio.Event(), asyncio.Event()

    def find(self, _user: str) -> Route | None:
        return self.route

    def admits(self, route: Route, user: str, key: bytes) -> bool:
        return route.admits(user, key)

    def notice(self, user: str) -> Notice | None:
        notice = Notice("request-1", NoticeState.WAITING, (PUBLIC_KEY,), "You wait.")
        return notice if user == USER else None

    def may_read(self, notice: Notice, key: bytes) -> bool:
        return notice.admits(key)

    async def log_in(self, *_: object, **__: object) -> None:
        self.is_asked.set()
        await self.counts.wait()

    def release(self, _number: int) -> None:
        pass

    def report(self, number: int, event: str, **facts: Any) -> None:
        self.reports.append({"event": event, **facts})

    def gone(self, _login: Login) -> None:
        self.is_empty.set()


class Bench:
    """A client in front of one login. `passes` moves the clock of the event loop."""

    def __init__(self, context: Context, client: RawClient) -> None:
        self.context = context
        self.client = client
        self.port = 0
        self._loop = asyncio.get_running_loop()

    def arrived(self) -> Transport:
        self.login = Login(self.context, 1)
        return self.login.transport

    async def passes(self, seconds: float) -> None:
        before = self._loop.time
        self._loop.time = lambda: before() + seconds  # type: ignore[method-assign]
        await asyncio.sleep(0.05)

    async def reported(self) -> dict[str, Any]:
        await self.client.until(lambda: self.context.reports)
        return self.context.reports[0]

    def ask(self, user: str) -> None:
        """Name a user and ask about the key, as clients do before they want a passphrase."""
        self.client.send(bytes((wire.SERVICE_REQUEST,)) + string("ssh-userauth"))
        request = string(user) + string("ssh-connection") + string("publickey") + b"\0"
        request += string("ssh-ed25519") + string(KEY.blob)
        self.client.send(bytes((wire.USERAUTH_REQUEST,)) + request)

    async def asked_and_left(self, user: str) -> dict[str, Any]:
        """What is reported of a client that leaves after the answer about its key."""
        await self.client.connect("127.0.0.1", self.port)
        await self.client.secure()
        self.ask(user)
        await self.client.until(lambda: self.login.user == user)
        await self.client.leave()
        return await self.reported()


@asynccontextmanager
async def bench(host_keys: Mapping[str, PrivateKey]) -> AsyncIterator[Bench]:
    public_key = b64encode(host_keys["ssh-ed25519"].blob).decode()
    found = Bench(Context(host_keys), RawClient(f"ssh-ed25519 {public_key}"))
    async with await asyncio.get_running_loop().create_server(found.arrived, "127.0.0.1", 0) as listener:
        found.port = listener.sockets[0].getsockname()[1]
        try:
            yield found
        finally:
            if stream := found.client.transport._stream:
                stream.abort()
                await found.client.over()
        await found.context.is_empty.wait()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_people_may_take_their_time_to_compare_the_host_key(host_keys: dict[str, PrivateKey]) -> None:
    async def test() -> None:
        async with bench(host_keys) as found:
            await found.client.connect("127.0.0.1", found.port)
            await found.client.until(lambda: found.login.transport.exchange.session_id)
            stream = found.client.transport._stream
            assert stream is not None
            stream.pause_reading()  # the client shows the key, and goes on when its user has answered

            await found.passes(EXCHANGE_SECONDS)
            await found.passes(LOGIN_SECONDS - EXCHANGE_SECONDS - 10)
            stream.resume_reading()
            await found.client.secure()
            found.ask("nobody")
            await asyncio.sleep(0.05)
            assert found.client.error is None

            await found.passes(10)
            assert "the login took too long" in await found.client.over()

    run(test)


def test_a_client_that_takes_no_part_in_the_key_exchange_has_less_time(
    host_keys: dict[str, PrivateKey],
) -> None:
    async def test() -> None:
        async with bench(host_keys) as found:
            reader, writer = await asyncio.open_connection("127.0.0.1", found.port)
            writer.write(b"SSH-2.0-test\r\n" + plain_packet(Offer.make("client", ("ssh-ed25519",)).packet))
            await reader.readline()
            await found.passes(EXCHANGE_SECONDS)
            assert b"the login took too long" in await reader.read()
            writer.close()
            await writer.wait_closed()

    run(test)


def test_a_client_that_leaves_before_it_signs_is_not_said_to_have_the_wrong_key(
    host_keys: dict[str, PrivateKey],
) -> None:
    """Such as at the question for the passphrase."""

    async def test() -> None:
        async with bench(host_keys) as found:
            reported = await found.asked_and_left(USER)
            assert reported["reason"] == "the client left before it proved its key"
            assert reported["points"] == LEFT_LATER

    run(test)


def test_a_client_without_a_key_that_fits_is_said_so(host_keys: dict[str, PrivateKey]) -> None:
    async def test() -> None:
        async with bench(host_keys) as found:
            reported = await found.asked_and_left("nobody")
            assert (reported["reason"], reported["points"]) == ("no key fits", REFUSED)

    run(test)


def test_a_pipe_file_that_cannot_be_used_counts_against_nobody(host_keys: dict[str, PrivateKey]) -> None:
    async def test() -> None:
        async with bench(host_keys) as found:
            found.context.knows_routes = False
            reported = await found.asked_and_left("nobody")
            assert (reported["reason"], reported["points"]) == ("the pipe file cannot be used", 0)

    run(test)


def test_a_client_that_proves_its_key_and_leaves_before_the_session_opens_costs_its_address_nothing(
    host_keys: dict[str, PrivateKey],
) -> None:
    async def test() -> None:
        async with bench(host_keys) as found:
            await found.client.connect("127.0.0.1", found.port)
            await found.client.secure()
            login = asyncio.ensure_future(found.client.log_in(USER, KEY))
            await found.context.is_asked.wait()
            await found.client.leave()
            with pytest.raises(wire.SshError):
                await login
            reported = await found.reported()
            assert reported["reason"] == "the client left before it got into the session"
            assert reported["points"] == 0

    run(test)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"public_keys": (PUBLIC_KEY, key_pair()[1])}, None),
        ({"public_keys": (key_pair()[1],)}, KEY_REMOVED),
        ({"host": "10.211.0.9"}, SESSION_REPLACED),
        (None, SESSION_ENDED),
    ],
)
def test_a_login_that_is_not_counted_yet_loses_its_route_as_any_other(
    host_keys: dict[str, PrivateKey],
    tmp_path: Path,
    changes: dict[str, Any] | None,
    reason: str | None,
) -> None:
    def route(**changes: Any) -> Route | None:
        path = tmp_path / "pipe.yaml"
        Pipes(path).replace(lambda: [pipe(username=USER, **{"public_keys": (PUBLIC_KEY,), **changes})])
        return Routes(path).find(USER)

    async def test() -> None:
        async with bench(host_keys) as found:
            found.context.route = route()
            await found.client.connect("127.0.0.1", found.port)
            await found.client.secure()
            login = asyncio.ensure_future(found.client.log_in(USER, KEY))
            await found.context.is_asked.wait()
            found.context.route = None if changes is None else route(**changes)
            assert found.login.lost_route() == reason
            await found.client.leave()
            with pytest.raises(wire.SshError):
                await login

    run(test)
