"""How packets are encrypted and protected: AES-GCM, ChaCha20-Poly1305, and AES-CTR with an HMAC.

A `Cipher` serves one direction of one connection. `seal` makes a whole packet of a payload. To open a
packet, `length` is called once with the packet's first `header` bytes, then `open` with all of it.
"""

import hmac
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher as Algorithm
from cryptography.hazmat.primitives.ciphers import CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.poly1305 import Poly1305

from gateway.router.ssh.wire import SshError

Buffer = bytes | memoryview

_SMALLEST_PADDING = 4
_BLOCK = 16


class Cipher(Protocol):
    header: int  # bytes that must be there before the length is known
    tag: int  # bytes after the encrypted part

    def seal(self, sequence: int, payload: bytes) -> bytes: ...

    def length(self, sequence: int, header: Buffer) -> int: ...

    def open(self, sequence: int, packet: Buffer) -> bytes:
        """The padding's length, the payload and the padding. Raises SshError for a forged packet."""
        ...


def _padded(payload: bytes, block: int, outside: int) -> bytes:
    """With padding up to a multiple of `block`; `outside` bytes of the packet do not count for it."""
    padding = block - (5 - outside + len(payload)) % block
    if padding < _SMALLEST_PADDING:
        padding += block
    return b"".join((bytes((padding,)), payload, os.urandom(padding)))


class Plain:
    """Before the first keys."""

    header, tag = 4, 0

    def seal(self, _sequence: int, payload: bytes) -> bytes:
        packet = _padded(payload, 8, 0)
        return len(packet).to_bytes(4, "big") + packet

    def length(self, _sequence: int, header: Buffer) -> int:
        length = int.from_bytes(header, "big")
        _require((length + 4) % 8 == 0)
        return length

    def open(self, _sequence: int, packet: Buffer) -> bytes:
        return bytes(packet[4:])


class Gcm:
    """RFC 5647 with OpenSSH's way of naming it: the length is sent in the clear and protected."""

    header, tag = 4, 16

    def __init__(self, key: bytes, iv: bytes, _mac: "Mac | None" = None) -> None:
        self._cipher = AESGCM(key)
        self._fixed = iv[:4]
        self._counter = int.from_bytes(iv[4:12], "big")

    def _nonce(self) -> bytes:
        counter = self._counter
        self._counter = (counter + 1) & 0xFFFFFFFFFFFFFFFF
        return self._fixed + counter.to_bytes(8, "big")

    def seal(self, _sequence: int, payload: bytes) -> bytes:
        packet = _padded(payload, _BLOCK, 4)
        length = len(packet).to_bytes(4, "big")
        return length + self._cipher.encrypt(self._nonce(), packet, length)

    def length(self, _sequence: int, header: Buffer) -> int:
        length = int.from_bytes(header, "big")
        _require(length % _BLOCK == 0)
        return length

    def open(self, _sequence: int, packet: Buffer) -> bytes:
        try:
            return self._cipher.decrypt(self._nonce(), packet[4:], packet[:4])
        except InvalidTag:
            raise _forged() from None


class ChaCha:
    """OpenSSH's PROTOCOL.chacha20poly1305: one key for the lengths, one for all else.

    The two streams are made once and restarted for each packet: to make one takes eight times as long."""

    header, tag = 4, 16

    def __init__(self, key: bytes, _iv: bytes, _mac: "Mac | None" = None) -> None:
        self._stream, self._length_stream = self._made(key[:32]), self._made(key[32:])

    @staticmethod
    def _made(key: bytes) -> CipherContext:
        return Algorithm(algorithms.ChaCha20(key, bytes(16)), None).encryptor()

    @staticmethod
    def _restart(stream: CipherContext, sequence: int) -> CipherContext:
        stream.reset_nonce(bytes(8) + sequence.to_bytes(8, "big"))
        return stream

    def seal(self, sequence: int, payload: bytes) -> bytes:
        packet = _padded(payload, 8, 4)
        length = self._restart(self._length_stream, sequence).update(len(packet).to_bytes(4, "big"))
        stream = self._restart(self._stream, sequence)
        poly_key = stream.update(bytes(64))[:32]
        sealed = length + stream.update(packet)
        return sealed + Poly1305.generate_tag(poly_key, sealed)

    def length(self, sequence: int, header: Buffer) -> int:
        length = int.from_bytes(self._restart(self._length_stream, sequence).update(header), "big")
        _require(length % 8 == 0)
        return length

    def open(self, sequence: int, packet: Buffer) -> bytes:
        stream = self._restart(self._stream, sequence)
        poly_key = stream.update(bytes(64))[:32]
        try:
            Poly1305.verify_tag(poly_key, packet[:-16], bytes(packet[-16:]))
        except InvalidSignature:
            raise _forged() from None
        return stream.update(packet[4:-16])


@dataclass(frozen=True, slots=True)
class Mac:
    key: bytes
    hash: str
    of_ciphertext: bool

    @classmethod
    def named(cls, name: str, key: bytes) -> "Mac":
        return cls(key, "sha512" if "512" in name else "sha256", name.endswith("-etm@openssh.com"))

    def digest(self, sequence: int, *data: Buffer) -> bytes:
        return hmac.digest(self.key, b"".join((sequence.to_bytes(4, "big"), *data)), self.hash)


class Ctr:
    """AES-CTR. The MAC covers the ciphertext, and the length is in the clear, or it covers the plaintext."""

    def __init__(self, key: bytes, iv: bytes, mac: "Mac | None") -> None:
        assert mac is not None
        self._stream = Algorithm(algorithms.AES(key), modes.CTR(iv)).encryptor()
        self._mac = mac
        self.tag = len(mac.key)
        self.header = 4 if mac.of_ciphertext else _BLOCK
        self._first = b""

    def seal(self, sequence: int, payload: bytes) -> bytes:
        if self._mac.of_ciphertext:
            packet = _padded(payload, _BLOCK, 4)
            sealed = len(packet).to_bytes(4, "big") + self._stream.update(packet)
            return sealed + self._mac.digest(sequence, sealed)
        packet = _padded(payload, _BLOCK, 0)
        whole = len(packet).to_bytes(4, "big") + packet
        return self._stream.update(whole) + self._mac.digest(sequence, whole)

    def length(self, _sequence: int, header: Buffer) -> int:
        if self._mac.of_ciphertext:
            length = int.from_bytes(header, "big")
            _require(length % _BLOCK == 0)
            return length
        self._first = self._stream.update(header)
        length = int.from_bytes(self._first[:4], "big")
        _require((length + 4) % _BLOCK == 0)
        return length

    def open(self, sequence: int, packet: Buffer) -> bytes:
        body, tag = packet[: -self.tag], packet[-self.tag :]
        if self._mac.of_ciphertext:
            self._verify(sequence, tag, body)
            return self._stream.update(body[4:])
        plain = self._first + self._stream.update(body[_BLOCK:])
        self._verify(sequence, tag, plain)
        return plain[4:]

    def _verify(self, sequence: int, tag: Buffer, body: Buffer) -> None:
        if not hmac.compare_digest(self._mac.digest(sequence, body), tag):
            raise _forged()


@dataclass(frozen=True, slots=True)
class Kind:
    make: Callable[[bytes, bytes, Mac | None], Cipher]
    key_bytes: int
    iv_bytes: int


KINDS: Mapping[str, Kind] = {
    "chacha20-poly1305@openssh.com": Kind(ChaCha, 64, 0),
    "aes128-gcm@openssh.com": Kind(Gcm, 16, 12),
    "aes256-gcm@openssh.com": Kind(Gcm, 32, 12),
    "aes128-ctr": Kind(Ctr, 16, 16),
    "aes192-ctr": Kind(Ctr, 24, 16),
    "aes256-ctr": Kind(Ctr, 32, 16),
}


def mac_bytes(name: str) -> int:
    """The size of a MAC's key and of its digest; 0 where the cipher needs none."""
    return (64 if "512" in name else 32) if name else 0


def _require(holds: bool) -> None:
    if not holds:
        raise _forged()


def _forged() -> SshError:
    return SshError("a packet is damaged")
