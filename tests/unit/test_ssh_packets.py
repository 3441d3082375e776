"""SSH's packets without a connection: every cipher, whole and in pieces, forged and too large."""

import os
from collections.abc import Iterator
from itertools import product

import pytest

from gateway.router.ssh.algorithms import CIPHERS, MACS
from gateway.router.ssh.ciphers import KINDS, Mac, mac_bytes
from gateway.router.ssh.packets import LARGEST, LARGEST_BEFORE_LOGIN, Packets
from gateway.router.ssh.wire import SshError, plain_packet

PROTECTIONS = [
    *((cipher, "") for cipher in CIPHERS if not cipher.endswith("-ctr")),
    *product([cipher for cipher in CIPHERS if cipher.endswith("-ctr")], MACS),
]


def ends(cipher: str, mac: str) -> tuple[Packets, Packets]:
    """A sender and a receiver with the same keys."""
    kind = KINDS[cipher]
    key, iv, mac_key = os.urandom(kind.key_bytes), os.urandom(kind.iv_bytes), os.urandom(mac_bytes(mac))

    def made() -> object:
        return kind.make(key, iv, Mac.named(mac, mac_key) if mac else None)

    sender, receiver = Packets(), Packets()
    sender.seal_with(made(), restart=True)  # type: ignore[arg-type]
    receiver.open_with(made(), restart=True)  # type: ignore[arg-type]
    return sender, receiver


@pytest.fixture(params=PROTECTIONS, ids=" ".join)
def pair(request: pytest.FixtureRequest) -> tuple[Packets, Packets]:
    return ends(*request.param)


def opened(receiver: Packets, *pieces: bytes) -> Iterator[bytes]:
    for piece in pieces:
        yield from receiver.open(memoryview(piece))


PAYLOADS = [bytes([number]) + os.urandom(size) for number, size in enumerate((0, 1, 15, 16, 17, 1000, 32768))]


def test_packets_of_every_size_arrive_in_their_order(pair: tuple[Packets, Packets]) -> None:
    sender, receiver = pair
    assert list(opened(receiver, b"".join(map(sender.seal, PAYLOADS)))) == PAYLOADS


@pytest.mark.parametrize("size", [1, 3, 7, 4096])
def test_packets_may_arrive_in_pieces(pair: tuple[Packets, Packets], size: int) -> None:
    sender, receiver = pair
    data = b"".join(map(sender.seal, PAYLOADS))
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert list(opened(receiver, *pieces)) == PAYLOADS


def test_a_changed_packet_is_refused_wherever_it_was_changed(pair: tuple[Packets, Packets]) -> None:
    sender, receiver = pair
    assert list(opened(receiver, sender.seal(b"first"))) == [b"first"]
    sealed = bytearray(sender.seal(b"a payload that somebody changes on its way"))
    sealed[-20] ^= 1
    with pytest.raises(SshError):
        list(opened(receiver, bytes(sealed)))


def test_a_packet_that_comes_twice_is_refused(pair: tuple[Packets, Packets]) -> None:
    sender, receiver = pair
    sealed = sender.seal(b"pay me")
    assert list(opened(receiver, sealed)) == [b"pay me"]
    with pytest.raises(SshError):
        list(opened(receiver, sealed + bytes(64)))


@pytest.mark.parametrize("length", [0, 1, 4, LARGEST_BEFORE_LOGIN + 8, 0xFFFFFFF0])
def test_a_length_outside_the_limits_is_refused_before_the_packet_has_come(length: int) -> None:
    with pytest.raises(SshError):
        list(opened(Packets(), length.to_bytes(4, "big")))


def test_large_packets_are_accepted_only_after_the_login() -> None:
    receiver = Packets()
    packet = plain_packet(bytes(LARGEST - 16))
    with pytest.raises(SshError):
        list(opened(receiver, packet))
    receiver = Packets()
    receiver.largest = LARGEST
    assert list(opened(receiver, packet)) == [bytes(LARGEST - 16)]


@pytest.mark.parametrize("padding", [0, 1, 3, 255])
def test_a_padding_outside_the_packet_is_refused(padding: int) -> None:
    packet = bytearray(plain_packet(b"payload"))
    packet[4] = padding
    with pytest.raises(SshError):
        list(opened(Packets(), bytes(packet)))
