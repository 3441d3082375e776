"""Two ends of SSH's transport layer on a real connection, without a router between or behind them."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import MappingProxyType

import pytest

from gateway.router import host_key
from gateway.router.ssh import handshake, wire
from gateway.router.ssh.algorithms import CIPHERS, KEY_EXCHANGES, MACS, Offer
from gateway.router.ssh.authentication import ClientAuthentication
from gateway.router.ssh.handshake import ServerHandshake
from gateway.router.ssh.keys import PrivateKey
from gateway.router.ssh.packets import Packets
from gateway.router.ssh.transport import Transport
from gateway.router.ssh.wire import SshError, string, uint32
from tests.fakes.raw_ssh import Lists, RawClient

DATA = b"\x5e" + uint32(0) + string(b"x" * 1000)


@pytest.fixture(scope="module")
def host_keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PrivateKey]:
    return host_key.load_all(host_key.defaults(tmp_path_factory.mktemp("keys")))


class Server:
    """Echoes the connection protocol."""

    def __init__(self, host_keys: dict[str, PrivateKey], rekey_after: int) -> None:
        self.transport = Transport(lambda each: ServerHandshake(each, host_keys), self, rekey_after)
        self.error: SshError | None = None
        self.is_over = asyncio.Event()

    def secured(self) -> None:
        self.transport.log_in()

    def packet(self, payload: bytes) -> bool:
        if payload[0] in wire.CONNECTION_PROTOCOL:
            self.transport.send(payload)
        return payload[0] in wire.CONNECTION_PROTOCOL

    def ended(self, error: SshError) -> None:
        self.error = error

    def gone(self) -> None:
        self.is_over.set()


@asynccontextmanager
async def ends(
    host_keys: dict[str, PrivateKey],
    kind: str = "ssh-ed25519",
    rekey_after: int = 1 << 20,
    lists: Lists = MappingProxyType({}),
) -> AsyncIterator[tuple[RawClient, Server]]:
    server = Server(host_keys, rekey_after)
    listener = await asyncio.get_running_loop().create_server(lambda: server.transport, "127.0.0.1", 0)
    key = f"{kind} {base64.b64encode(host_keys[kind].blob).decode()}"
    client = RawClient(key, lists=lists)
    try:
        await client.connect(*listener.sockets[0].getsockname())
        yield client, server
    finally:
        client.transport.close(SshError("the test is done"))
        await asyncio.wait_for(server.is_over.wait(), 10)
        listener.close()


async def echoes(client: RawClient, count: int = 3) -> None:
    client.transport.log_in()
    before = len(client.received)
    for _ in range(count):
        client.send(DATA)
    await client.until(lambda: len(client.received) - before == count)
    assert set(client.received) == {DATA}


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "rsa-sha2-512", "rsa-sha2-256"])
def test_a_host_key_of_each_kind_proves_the_server(host_keys: dict[str, PrivateKey], kind: str) -> None:
    async def test() -> None:
        async with ends(host_keys, kind, lists={1: (kind,)}) as (client, _):
            await client.secure()
            await echoes(client)

    run(test)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        *((0, name) for name in KEY_EXCHANGES),
        *((2, name) for name in CIPHERS),
        *((4, name) for name in MACS),
    ],
)
def test_packets_pass_with_each_algorithm(host_keys: dict[str, PrivateKey], place: int, name: str) -> None:
    async def test() -> None:
        lists: Lists = {2: (name,), 3: (name,)} if place == 2 else {place: (name,)}
        if place == 4:
            lists = {2: ("aes128-ctr",), 3: ("aes256-ctr",), 4: (name,), 5: (name,)}
        async with ends(host_keys, lists=lists) as (client, _):
            await client.secure()
            await echoes(client)

    run(test)


def test_another_host_key_is_refused(host_keys: dict[str, PrivateKey]) -> None:
    async def test() -> None:
        async with ends(host_keys, "rsa-sha2-512", lists={1: ("ssh-ed25519",)}) as (client, _):
            with pytest.raises(SshError, match="host key"):
                await client.secure()

    run(test)


@pytest.mark.parametrize("side", ["client", "server"])
def test_either_side_may_exchange_keys_again(host_keys: dict[str, PrivateKey], side: str) -> None:
    async def test() -> None:
        async with ends(host_keys) as (client, server):
            await client.secure()
            await echoes(client)
            (client if side == "client" else server).transport.exchange.start()
            (client if side == "client" else server).transport.flush()
            await echoes(client, 20)
            await client.until(lambda: client.transport.packets.since_keys < 50)

    run(test)


def test_keys_are_exchanged_again_after_so_many_packets(host_keys: dict[str, PrivateKey]) -> None:
    async def test() -> None:
        async with ends(host_keys, rekey_after=100) as (client, _):
            await client.secure()
            for _ in range(20):
                await echoes(client, 20)
            assert client.transport.packets.since_keys < 200

    run(test)


def test_a_key_exchange_that_is_never_answered_ends_the_connection(
    host_keys: dict[str, PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake, "LATER_EXCHANGE_SECONDS", 0.2)

    async def test() -> None:
        async with ends(host_keys) as (client, server):
            await client.secure()
            await echoes(client)
            monkeypatch.setattr(client.transport.exchange, "packet", lambda _payload: None)
            client.send(Offer.make("client", ("ssh-ed25519",)).packet)
            assert "a key exchange took longer" in await client.over()
            assert "a key exchange took longer" in str(server.error)

    run(test)


def test_a_server_that_accepts_a_login_again_and_again_is_heard_once(
    host_keys: dict[str, PrivateKey],
) -> None:
    async def test() -> None:
        async with ends(host_keys) as (client, server):
            logins: list[str] = []
            authentication = ClientAuthentication(
                client.transport, "user123", host_keys["ssh-ed25519"], lambda: logins.append("accepted")
            )
            client.packet = authentication.packet  # type: ignore[method-assign]
            requests: list[int] = []
            server.packet = lambda payload: not requests.append(payload[0])  # type: ignore[method-assign,func-returns-value]
            await client.secure()
            for packet in [wire.USERAUTH_SUCCESS, wire.USERAUTH_SUCCESS, wire.USERAUTH_FAILURE]:
                server.transport.send(bytes((packet,)))
            for _ in range(3):
                server.transport.send(bytes((wire.SERVICE_ACCEPT,)) + string("ssh-userauth"))
            server.transport.send(bytes((wire.PING,)) + string(b"the last one"))
            server.transport.flush()
            await client.until(lambda: wire.PONG in requests)
            assert logins == ["accepted"]
            assert wire.USERAUTH_REQUEST not in requests
            assert client.error is None

    run(test)


def test_a_ping_is_answered(host_keys: dict[str, PrivateKey]) -> None:
    async def test() -> None:
        async with ends(host_keys) as (client, _):
            await client.secure()
            client.transport.log_in()
            answers: list[bytes] = []
            client.packet = lambda payload: bool(answers.append(payload)) or True  # type: ignore[method-assign,func-returns-value]
            client.send(bytes((wire.PING,)) + string(b"chaff"))
            await client.until(lambda: bytes((wire.PONG,)) + string(b"chaff") in answers)

    run(test)


def test_pings_whose_answers_nobody_reads_end_the_connection(host_keys: dict[str, PrivateKey]) -> None:
    async def test() -> None:
        async with ends(host_keys) as (client, server):
            await client.secure()
            client.transport.log_in()
            stream = client.transport._stream
            assert stream is not None
            stream.pause_reading()
            while not server.is_over.is_set():
                client.send(bytes((wire.PING,)) + string(bytes(30000)))
                await asyncio.sleep(0)
                if client.transport.has_ended:
                    break
            assert "does not read" in str(server.error)

    run(test)


@pytest.mark.parametrize("number", [wire.IGNORE, wire.DEBUG, wire.UNIMPLEMENTED])
def test_nothing_but_the_key_exchange_is_accepted_during_the_first_one(
    host_keys: dict[str, PrivateKey], number: int
) -> None:
    async def test() -> None:
        reader, writer, server, listener = await plain_client(host_keys)
        writer.write(wire.plain_packet(bytes((number,)) + string("")))
        await asyncio.wait_for(server.is_over.wait(), 5)
        assert "during the first key exchange" in str(server.error)
        writer.close()
        listener.close()

    run(test)


async def plain_client(
    host_keys: dict[str, PrivateKey],
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Server, asyncio.Server]:
    """A connection on which the client's KEXINIT was sent, and nothing more."""
    server = Server(host_keys, 1 << 20)
    listener = await asyncio.get_running_loop().create_server(lambda: server.transport, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
    writer.write(b"SSH-2.0-test\r\n" + wire.plain_packet(Offer.make("client", ("ssh-ed25519",)).packet))
    return reader, writer, server, listener


def test_a_packet_before_the_first_key_exchange_is_refused_by_the_strict_form(
    host_keys: dict[str, PrivateKey],
) -> None:
    async def test() -> None:
        server = Server(host_keys, 1 << 20)
        listener = await asyncio.get_running_loop().create_server(lambda: server.transport, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        offer = Offer.make("client", ("ssh-ed25519",))
        ignored = wire.plain_packet(bytes((wire.IGNORE,)) + string(""))
        writer.write(b"SSH-2.0-test\r\n" + ignored + wire.plain_packet(offer.packet))
        await asyncio.wait_for(server.is_over.wait(), 5)
        assert "does not begin a key exchange" in str(server.error)
        writer.close()
        listener.close()

    run(test)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "does not speak SSH: 'GET / HTTP/1.1'"),
        (b"\x16\x03\x01\x02\x00", "does not speak SSH"),
        (b"SSH-1.5-old\r\n", "version of SSH is not supported"),
        (b"SSH-2.0-" + b"x" * 300, "version line is too long"),
        (b"SSH", "closed the connection"),
    ],
)
def test_what_is_no_ssh_client_is_named(host_keys: dict[str, PrivateKey], line: bytes, reason: str) -> None:
    async def test() -> None:
        server = Server(host_keys, 1 << 20)
        listener = await asyncio.get_running_loop().create_server(lambda: server.transport, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        writer.write(line)
        writer.write_eof()
        await asyncio.wait_for(server.is_over.wait(), 5)
        assert reason in str(server.error)
        writer.close()
        listener.close()

    run(test)


def test_a_packet_cut_in_single_bytes_costs_little() -> None:
    """What is unread is looked at again only when the packet is whole."""
    packets, looks = Packets(), 0
    whole = packets._whole

    def counted(data: memoryview) -> int:
        nonlocal looks
        looks += 1
        return whole(data)

    packets._whole = counted  # type: ignore[method-assign]
    for byte in wire.plain_packet(bytes(30000)):
        list(packets.open(memoryview(bytes((byte,)))))
    assert looks <= 3
