"""One SSH connection as an asyncio protocol: what becomes of each packet, flow control, and the end.

The memory that a peer can fill is bounded: while one end of a relay cannot be written to, because its
buffer is full or its keys are being exchanged, the other end is not read.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol, cast

from gateway.router.ssh import identification, wire
from gateway.router.ssh.identification import Identification
from gateway.router.ssh.packets import LARGEST, Packets
from gateway.router.ssh.wire import SshError

PACKETS_BEFORE_LOGIN = 200
LARGEST_BACKLOG = 1 << 20  # bytes of replies that a peer leaves unread
CLOSING_SECONDS, CLOSING_SECONDS_BEFORE_LOGIN = 5, 1
REKEY_PACKETS = 1 << 21  # 64 GiB in packets of 32 KiB, as OpenSSH does with AES

_HOST_KEYS_UPDATE = b"\x50\x00\x00\x00\x17hostkeys-00@openssh.com"

# asyncio fills the buffer and hands it over in one step, so all connections share it.
_received = memoryview(bytearray(256 * 1024))


class Closed(SshError):
    """The other side closed the connection; `detail` is what it said."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("the other side closed the connection", detail)


class Exchange(Protocol):
    """The key exchanges of one connection."""

    role: str
    session_id: bytes
    host_key: bytes
    is_unfinished: bool  # the peer has begun a key exchange and may send nothing else

    def start(self) -> None:
        """Begin a key exchange, unless one runs already."""

    def packet(self, payload: bytes) -> None:
        """Handle a packet of the numbers 20 to 49. Raises SshError."""

    def require_allowed(self, number: int) -> None:
        """Raise SshError if no other packet of this number may come now."""


class Handler(Protocol):
    """The owner of a transport."""

    def secured(self) -> None:
        """The first key exchange is done."""

    def packet(self, payload: bytes) -> bool:
        """Handle a packet of the services; return whether it is known. May raise SshError."""

    def ended(self, error: SshError) -> None:
        """The connection is of no more use, and why. Called once."""

    def gone(self) -> None:
        """The connection's socket is closed. Called once, at last."""


class Transport(asyncio.BufferedProtocol):
    """One end of a relay. Once `peer` is set, packets of the connection protocol go there unread."""

    def __init__(
        self,
        exchange: Callable[["Transport"], Exchange],
        handler: Handler,
        rekey_after: int = REKEY_PACKETS,
    ) -> None:
        self.exchange = exchange(self)
        self.packets = Packets()
        self.identification = Identification(may_greet=self.exchange.role == "client")
        self.peer: Transport | None = None
        self.has_ended = False
        self.handler = handler
        self._rekey_after = rekey_after
        self._stream: asyncio.Transport | None = None
        self.is_logged_in = False
        self._is_held = False
        self._is_full = False
        self._held: list[bytes] = []  # for the new keys
        self._out: list[bytes] = []  # encrypted, for the next flush
        self._closing: asyncio.TimerHandle | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream = cast(asyncio.Transport, transport)
        connection = self._stream.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream.write(identification.OURS + b"\r\n")

    def get_buffer(self, _size_hint: int) -> memoryview:
        return _received

    def buffer_updated(self, count: int) -> None:
        if self.has_ended:
            return
        try:
            self._read(_received[:count])
        except SshError as error:
            self.close(error)
        self.flush()
        if self.peer:
            self.peer.flush()

    def eof_received(self) -> None:
        self._end(Closed())

    def connection_lost(self, error: Exception | None) -> None:
        self._end(Closed(str(error or "")))
        self.peer = None
        if self._closing:
            self._closing.cancel()
        self.handler.gone()

    def pause_writing(self) -> None:
        self._is_full = True
        self._throttle_peer()

    def resume_writing(self) -> None:
        self._is_full = False
        self._throttle_peer()

    # Reading.

    def _read(self, data: memoryview) -> None:
        if not self.identification.version:
            rest = self.identification.read(data)
            if rest is None:
                return
            self.exchange.start()
            data = rest
        for payload in self.packets.open(data):
            self._dispatch(payload)
            if self.has_ended:
                return

    def _dispatch(self, payload: bytes) -> None:
        number = payload[0]
        if self.peer and 80 <= number < 128 and not self.exchange.is_unfinished:
            if not payload.startswith(_HOST_KEYS_UPDATE):  # the session's host keys are not the gateway's
                self.peer.send(payload)
        elif 20 <= number < 50:
            self.exchange.packet(payload)
        else:
            self.exchange.require_allowed(number)
            self._control(number, payload)

    def _control(self, number: int, payload: bytes) -> None:
        if not self.is_logged_in and (number >= 80 or self.packets.received > PACKETS_BEFORE_LOGIN):
            raise SshError("a packet is not allowed before the login", number)
        if number == wire.DISCONNECT:
            self._end(Closed(wire.shown(wire.Reader(payload, 5).string())))
        elif number == wire.PING:
            if not self._is_held:  # a reply would wait in memory for the end of the key exchange
                self.send(bytes((wire.PONG,)) + payload[1:])
        elif number not in (wire.IGNORE, wire.UNIMPLEMENTED, wire.DEBUG) and not self.handler.packet(payload):
            self.send(bytes((wire.UNIMPLEMENTED,)) + wire.uint32((self.packets.received - 1) & 0xFFFFFFFF))

    # Writing.

    def send(self, payload: bytes) -> None:
        """Encrypt a packet for the next `flush`. During a key exchange it waits for the new keys."""
        number = payload[0]
        if self._is_held and not (number < 5 or 20 <= number < 50):
            self._held.append(payload)
        else:
            self._out.append(self.packets.seal(payload))

    def flush(self) -> None:
        """Write what was sent. A peer that leaves too much of it unread is dropped."""
        if self.is_logged_in and self.packets.since_keys > self._rekey_after:
            self.exchange.start()
        out, self._out = self._out, []
        if not out or self._stream is None or self.has_ended:
            return
        self._stream.write(b"".join(out))
        if self._stream.get_write_buffer_size() > LARGEST_BACKLOG:
            self._end(SshError("the other side does not read what it asked for"))
            self._stream.abort()

    def hold(self) -> None:
        """Send nothing but the key exchange until `release`."""
        self._is_held = True
        self._throttle_peer()

    def release(self) -> None:
        self._is_held = False
        held, self._held = self._held, []
        for payload in held:
            self.send(payload)
        self._throttle_peer()

    def _throttle_peer(self) -> None:
        stream = self.peer._stream if self.peer else None
        if stream and (self._is_full or self._is_held):
            stream.pause_reading()
        elif stream:
            stream.resume_reading()

    # Its stages and its end.

    def log_in(self) -> None:
        self.is_logged_in = True
        self.packets.largest = LARGEST

    def join(self, peer: "Transport") -> None:
        self.peer, peer.peer = peer, self
        for one in (self, peer):
            one._throttle_peer()

    def close(self, error: SshError) -> None:
        """Send the reason and close."""
        if self.has_ended:
            return
        if error.code == wire.SILENT:
            self._out.append(b"Invalid SSH identification string.\r\n")
        else:
            self.send(wire.disconnect(error.code, str(error)))
        self.flush()
        self._end(error)
        if self._stream and not self._stream.is_closing():
            self._stream.write_eof()
            self._stream.resume_reading()

    def _end(self, error: SshError) -> None:
        """Nothing more is read or sent; the other side has a moment to close its end."""
        if self.has_ended:
            return
        self.has_ended = True
        if self._stream:
            seconds = CLOSING_SECONDS if self.is_logged_in else CLOSING_SECONDS_BEFORE_LOGIN
            self._closing = asyncio.get_running_loop().call_later(seconds, self._stream.abort)
        self.handler.ended(error)
