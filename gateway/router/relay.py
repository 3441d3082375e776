"""One end of a relayed connection: the packets of the connection protocol pass through unread.

AsyncSSH does the transport and the authentication of both ends. From then on every packet that
RFC 4254 numbers 80 to 127 goes to the other end as it came, so that exit signals, forwardings,
subsystems and whatever comes next work without being known here. This class is the only one that
reaches below the library's public surface; setup.cfg pins the version, the route suite guards it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from asyncssh import DISC_BY_APPLICATION

_MSG_IGNORE = 2
_UP_TO_CHANNEL_OPEN = range(80, 93)  # beyond, the library looks for the channel's own handler
_HOST_KEYS_UPDATE = b"\x50\x00\x00\x00\x17hostkeys-00@openssh.com"
_LARGEST_PACKET = 1 << 20
_FLUSH_SECONDS = 5


class _EveryChannel(dict[int, Any]):
    """The library's channel table, with one handler for every number."""

    def __init__(self, handler: object) -> None:
        super().__init__()
        self._handler = handler

    def __missing__(self, _number: int) -> object:
        return self._handler


class Relay:
    """Made in `connection_made`, before the library speaks; `join` connects it with the other end."""

    def __init__(self, connection: Any, failed_try: Callable[[], None] | None = None) -> None:
        self._connection: Any = connection
        self._peer: Relay | None = None
        self._waiting: list[bytes] = []
        self._send_packet = self._connection.send_packet
        self._take_over(failed_try)

    def join(self, peer: "Relay") -> None:
        self._peer, peer._peer = peer, self
        self._deliver_to(peer)
        peer._deliver_to(self)

    def close(self, reason: str, code: int = DISC_BY_APPLICATION) -> None:
        """Say why and close once all is sent: the library's own `close` drops what is in the buffer."""
        transport = self._connection._transport
        if transport is None or transport.is_closing():
            return
        self._connection._send_disconnect(code, reason, "en")
        transport.close()
        asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._connection.abort)

    # What the library calls, in place of its own.

    def _take_over(self, failed_try: Callable[[], None] | None) -> None:
        connection = self._connection
        forward = dict.fromkeys(_UP_TO_CHANNEL_OPEN, self._forward)
        connection._packet_handlers = {**connection._packet_handlers, **forward}
        connection._channels = _EveryChannel(self)
        connection._max_recv_pktlen = _LARGEST_PACKET
        connection.send_packet = self._send
        connection.log_sent_packet = connection.log_received_packet = self.log_received_packet
        connection.pause_writing = lambda: self._let_peer_read(False)
        connection.resume_writing = lambda: self._let_peer_read(True)
        if failed_try:
            connection.send_userauth_failure = _then(connection.send_userauth_failure, failed_try)

    def log_received_packet(self, *_arguments: object, **_options: object) -> None:
        """Nothing: the library would spend a quarter of its time on telling packets."""

    def process_packet(self, number: int, sequence: int, packet: Any) -> bool:
        """A packet of some channel."""
        self._forward(self._connection, number, sequence, packet)
        return True

    def _forward(self, _connection: object, _number: int, _sequence: int, packet: Any) -> None:
        payload: bytes = packet.get_full_payload()
        if payload.startswith(_HOST_KEYS_UPDATE):
            return  # clients would learn the session's host keys as the gateway's
        if self._peer is None:
            self._waiting.append(payload)
            self._read(False)
        else:
            self._peer._send(payload[0], payload[1:])

    def _send(self, number: int, *parts: bytes, **options: Any) -> None:
        if number != _MSG_IGNORE:  # a decoy before each packet, for ciphers that are not offered
            self._send_packet(number, *parts, **options)

    def _let_peer_read(self, on: bool) -> None:
        if self._peer:
            self._peer._read(on)

    def _read(self, on: bool) -> None:
        transport = self._connection._transport
        if transport is not None and not transport.is_closing():
            (transport.resume_reading if on else transport.pause_reading)()

    def _deliver_to(self, peer: "Relay") -> None:
        """What came before the other end was there."""
        for payload in self._waiting:
            peer._send(payload[0], payload[1:])
        self._waiting.clear()
        self._read(True)


def _then(first: Callable[..., None], second: Callable[[], None]) -> Callable[..., None]:
    def both(*arguments: object) -> None:
        first(*arguments)
        second()

    return both
