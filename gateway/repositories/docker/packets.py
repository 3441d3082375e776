"""Sends the packets that a session could send, and returns which of them arrived.

Listed rules can have no effect; a packet that does not arrive proves their effect. Three TAP devices exist
for about a tenth of a second: two are ports of the sessions' bridge, like a session's device, and one is
another network of the host.
"""

import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from gateway.errors import NetworkUnavailable
from gateway.repositories.docker.firewall import run, stderr_of

_DEVICE = "/dev/net/tun"
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # linux/if_tun.h
_ETHERNET, _ARP, _IPV4, _UDP = 1, b"\x08\x06", b"\x08\x00", 17
_REQUEST, _REPLY = 1, 2
_BROADCAST, _UNKNOWN_MAC = b"\xff" * 6, bytes(6)
_OUTSIDE_HOST, _OUTSIDE = "203.0.113.1", "203.0.113.2"  # in the range that is reserved for documentation
_DISCARD_PORT = 9
_WAIT_SECONDS = 0.1
_ANSWER_SECONDS = 2.0
_MOST_SESSIONS = 512


@dataclass(frozen=True, slots=True)
class _Machine:
    """A simulated machine behind a TAP device: a frame that is written to `file` arrives at the device."""

    file: int
    address: str
    mac: bytes
    device_mac: bytes

    def send_udp(self, to: bytes, address: str, payload: bytes, port: int = _DISCARD_PORT) -> None:
        """`to` is the MAC address of the next hop."""
        datagram = struct.pack("!HHHH", _DISCARD_PORT, port, 8 + len(payload), 0) + payload  # 0: no checksum
        addresses = socket.inet_aton(self.address) + socket.inet_aton(address)
        header = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(datagram), 0, 0, 64, _UDP)
        checksum = _checksum(header + addresses)
        os.write(self.file, to + self.mac + _IPV4 + header + checksum + addresses + datagram)

    def ask_for(self, address: str) -> None:
        """Send an ARP request for an address."""
        fields = struct.pack("!HHBBH", _ETHERNET, 0x0800, 6, 4, _REQUEST)
        sender = self.mac + socket.inet_aton(self.address)
        os.write(
            self.file,
            _BROADCAST + self.mac + _ARP + fields + sender + _UNKNOWN_MAC + socket.inet_aton(address),
        )

    def mac_of(self, address: str) -> bytes:
        """Raises `NetworkUnavailable` without an ARP reply, because then no other packet proves anything."""
        self.ask_for(address)
        deadline = time.monotonic() + _ANSWER_SECONDS
        while (remaining := deadline - time.monotonic()) > 0:
            for frame in self.frames(remaining):
                if _arp(frame) == (_REPLY, address):
                    return frame[22:28]
        raise NetworkUnavailable(f"{address}, the host's address in the sessions' network, does not answer.")

    def frames(self, timeout_seconds: float = 0.0) -> Iterator[bytes]:
        """Yield the frames that have arrived, or the first frames that arrive within the timeout."""
        while select.select([self.file], [], [], timeout_seconds)[0]:
            yield os.read(self.file, 2048)
            timeout_seconds = 0.0


def open_paths(bridge: str, gateway: str, spare: tuple[str, str], sessions: Sequence[str]) -> list[str]:
    """Return one sentence for each direction that is open and must be closed.

    `gateway` is the host's address on the bridge, `spare` are two free addresses there, `sessions` are
    the addresses of live sessions. Raises `NetworkUnavailable` when no packet can be sent.
    """
    token = os.urandom(8)
    with ExitStack() as devices:
        session, neighbour = (devices.enter_context(_machine(each, f"master {bridge}")) for each in spare)
        outside = devices.enter_context(_machine(_OUTSIDE, None))
        service = devices.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        service.bind((gateway, 0))
        service.setblocking(False)
        bridge_mac = session.mac_of(gateway)
        neighbour.mac_of(gateway)  # the bridge learns its port
        session.send_udp(bridge_mac, gateway, token, service.getsockname()[1])
        session.send_udp(neighbour.mac, neighbour.address, token + b"bridged")
        session.send_udp(bridge_mac, neighbour.address, token + b"routed")
        session.send_udp(bridge_mac, _OUTSIDE, token)
        session.ask_for(neighbour.address)
        outside.send_udp(outside.device_mac, session.address, token)
        for address in sessions[:_MOST_SESSIONS]:
            session.ask_for(address)
        time.sleep(_WAIT_SECONDS)
        return list(_arrived(token, session, neighbour, outside, service, set(sessions)))


def _arrived(
    token: bytes,
    session: _Machine,
    neighbour: _Machine,
    outside: _Machine,
    service: socket.socket,
    sessions: set[str],
) -> Iterator[str]:
    if select.select([service], [], [], 0)[0]:
        yield "sessions reach the host"
    at_neighbour = list(neighbour.frames())
    if any(token + b"bridged" in frame for frame in at_neighbour):
        yield "sessions reach each other"
    if any(_arp(frame) == (_REQUEST, session.address) for frame in at_neighbour):
        yield "sessions receive each other's ARP requests"
    if any(token + b"routed" in frame for frame in at_neighbour):
        yield "sessions reach each other through the host"
    if any(token in frame or _arp(frame) == (_REQUEST, _OUTSIDE_HOST) for frame in outside.frames()):
        yield "sessions reach the outside"
    frames = list(session.frames())
    if any(token in frame for frame in frames):
        yield "other machines reach sessions"
    for address in sorted(sessions & {_arp(frame)[1] for frame in frames if _arp(frame)[0] == _REPLY}):
        yield f"the session at {address} answers its neighbours"


@contextmanager
def _machine(address: str, port_of: str | None) -> Iterator[_Machine]:
    """A machine whose device is a port of a bridge, or another network of the host."""
    mac, device_mac = b"\x02" + os.urandom(5), b"\xfe" + os.urandom(5)  # a bridge may adopt the lowest
    try:
        file = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK)
    except OSError as error:
        raise _cannot_send(error) from error
    try:
        request = struct.pack("16sH22x", b"gwpacket%d", _IFF_TAP | _IFF_NO_PI)
        name = fcntl.ioctl(file, _TUNSETIFF, request)[:16].rstrip(b"\0").decode()
        commands = [
            f"link set {name} address {device_mac.hex(':')} addrgenmode none",
            f"link set {name} {port_of}" if port_of else f"address add {_OUTSIDE_HOST}/30 dev {name}",
            f"link set {name} up",
        ]
        done = run(["ip", "-batch", "-"], "\n".join(commands))
        if done.returncode:
            raise NetworkUnavailable(f"No test packet can be sent to sessions: {stderr_of(done)}")
        yield _Machine(file, address, mac, device_mac)
    except OSError as error:
        raise _cannot_send(error) from error
    finally:
        os.close(file)


def _cannot_send(error: OSError) -> NetworkUnavailable:
    return NetworkUnavailable(
        f"No test packet can be sent into the sessions' network ({error.strerror}): the gateway needs "
        "/dev/net/tun and CAP_NET_ADMIN."
    )


def _arp(frame: bytes) -> tuple[int, str]:
    """The kind of an ARP frame and its sender; (0, "") for any other frame."""
    if frame[12:14] != _ARP:
        return 0, ""
    return frame[21], socket.inet_ntoa(frame[28:32])


def _checksum(header: bytes) -> bytes:
    """The checksum of an IPv4 header (RFC 791) in which the checksum is zero."""
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
