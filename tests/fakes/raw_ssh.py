"""An SSH client that a test steers packet by packet. It may break the rules of the protocol."""

import asyncio
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from gateway.router.ssh import wire
from gateway.router.ssh.algorithms import Offer
from gateway.router.ssh.authentication import ClientAuthentication
from gateway.router.ssh.handshake import ClientHandshake
from gateway.router.ssh.keys import PrivateKey
from gateway.router.ssh.known_hosts import KnownHost
from gateway.router.ssh.transport import Transport
from gateway.router.ssh.wire import SshError, string, uint32

WINDOW = 0xFFFFFFFF

Lists = Mapping[int, Sequence[str]]


class RawClient:
    """`received` holds the payloads of the connection protocol, if `keeps`; `size` counts their bytes."""

    def __init__(self, host_key: str, keeps: bool = True, lists: Lists = MappingProxyType({})) -> None:
        known = KnownHost(frozenset((b64decode(host_key.split()[1]),)), frozenset())
        self.transport = Transport(lambda each: _Handshake(each, known, lists), self)
        self.received: list[bytes] = []
        self.size = 0
        self.error: SshError | None = None
        self.is_secured = asyncio.Event()
        self.is_logged_in = asyncio.Event()
        self.is_over = asyncio.Event()
        self._keeps = keeps
        self._authentication: ClientAuthentication | None = None

    async def connect(self, host: str, port: int, source: str = "127.0.0.1") -> "RawClient":
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: self.transport, host, port, local_addr=(source, 0))
        return self

    async def secure(self) -> None:
        """Wait for the end of the first key exchange. Raises the SshError that ended it."""
        await self._first(self.is_secured)

    async def log_in(self, user: str, key: PrivateKey) -> None:
        await self.secure()
        self._authentication = ClientAuthentication(self.transport, user, key, self.is_logged_in.set)
        self._authentication.begin()
        self.transport.flush()
        await self._first(self.is_logged_in)

    async def run(self, command: str) -> None:
        """Open channel 0 with the largest window there is, and run a command in it."""
        opening = string("session") + uint32(0) + uint32(WINDOW) + uint32(32768)
        self.send(bytes((90,)) + opening)
        await self.until(lambda: any(packet[0] == 91 for packet in self.received))
        self.send(bytes((98,)) + uint32(0) + string("exec") + b"\0" + string(command))

    async def until(self, true: Callable[[], object], seconds: float = 10) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                await asyncio.sleep(0.01)

    def send(self, payload: bytes) -> None:
        self.transport.send(payload)
        self.transport.flush()

    async def leave(self) -> None:
        self.transport.close(SshError("the test is done"))
        await self.is_over.wait()

    async def over(self, seconds: float = 10) -> str:
        """Wait for the end; what the server said."""
        async with asyncio.timeout(seconds):
            await self.is_over.wait()
        assert self.error is not None
        return self.error.detail

    async def _first(self, event: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self.is_over)]
        await asyncio.wait(waits, timeout=10, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if not event.is_set():
            raise self.error or AssertionError("nothing happened")

    # What the transport calls.

    def secured(self) -> None:
        self.is_secured.set()

    def packet(self, payload: bytes) -> bool:
        if payload[0] in wire.CONNECTION_PROTOCOL:
            self.size += len(payload)
            if self._keeps or payload[0] != 94:
                self.received.append(payload)
            return True
        return self._authentication is None or self._authentication.packet(payload)

    def ended(self, error: SshError) -> None:
        self.error = error

    def gone(self) -> None:
        self.is_over.set()


class _Handshake(ClientHandshake):
    """`lists` replace those of its offer, by their place: 0 for the key exchanges."""

    def __init__(self, transport: Transport, known: KnownHost, lists: Lists) -> None:
        super().__init__(transport, known)
        self._lists = lists

    def _offer(self) -> Offer:
        offer = super()._offer()
        lists = list(offer.lists)
        for place, names in self._lists.items():
            lists[place] = tuple(names)
        return Offer.of(lists)
