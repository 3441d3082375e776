"""The key exchanges: elliptic curves, and ML-KEM with X25519, which also holds against a quantum computer.

Each returns the shared secret as it is encoded in the exchange's hash (RFC 8731, RFC 5656,
draft-ietf-sshm-mlkem-hybrid-kex).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec, mlkem
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.router.ssh.wire import KEY_EXCHANGE_FAILED, SshError, mpint, string

T = TypeVar("T")

_MLKEM_PUBLIC_KEY, _MLKEM_CIPHERTEXT = 1184, 1088  # bytes


class Initiator(Protocol):
    """The client's half."""

    public: bytes

    def finish(self, reply: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class KeyExchange:
    """`hash` is the name of the hash that goes with it."""

    hash: str
    begin: Callable[[], Initiator]
    _respond: Callable[[bytes], tuple[bytes, bytes]]

    def respond(self, init: bytes) -> tuple[bytes, bytes]:
        """The server's public value and the shared secret. Raises SshError for an invalid `init`."""
        return _checked(lambda: self._respond(init))

    def finish(self, initiator: Initiator, reply: bytes) -> bytes:
        """The shared secret. Raises SshError for an invalid `reply`."""
        return _checked(lambda: initiator.finish(reply))


def _checked(work: Callable[[], T]) -> T:
    try:
        return work()
    except ValueError:
        raise SshError("the key exchange value is invalid", code=KEY_EXCHANGE_FAILED) from None


class _X25519:
    def __init__(self) -> None:
        self._private = X25519PrivateKey.generate()
        self.public = self._private.public_key().public_bytes_raw()

    def raw(self, public: bytes) -> bytes:
        return self._private.exchange(X25519PublicKey.from_public_bytes(public))

    def finish(self, reply: bytes) -> bytes:
        return mpint(int.from_bytes(self.raw(reply), "big"))

    @classmethod
    def respond(cls, init: bytes) -> tuple[bytes, bytes]:
        ours = cls()
        return ours.public, ours.finish(init)


class _Curve:
    def __init__(self, curve: ec.EllipticCurve) -> None:
        self._private = ec.generate_private_key(curve)
        self.public = self._private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def finish(self, reply: bytes) -> bytes:
        theirs = ec.EllipticCurvePublicKey.from_encoded_point(self._private.curve, reply)
        return mpint(int.from_bytes(self._private.exchange(ec.ECDH(), theirs), "big"))


class _MlKem:
    def __init__(self) -> None:
        self._private = mlkem.MLKEM768PrivateKey.generate()
        self._classical = _X25519()
        self.public = self._private.public_key().public_bytes_raw() + self._classical.public

    def finish(self, reply: bytes) -> bytes:
        ciphertext, public = reply[:_MLKEM_CIPHERTEXT], reply[_MLKEM_CIPHERTEXT:]
        return _combined(self._private.decapsulate(ciphertext), self._classical.raw(public))

    @staticmethod
    def respond(init: bytes) -> tuple[bytes, bytes]:
        encapsulation, public = init[:_MLKEM_PUBLIC_KEY], init[_MLKEM_PUBLIC_KEY:]
        secret, ciphertext = mlkem.MLKEM768PublicKey.from_public_bytes(encapsulation).encapsulate()
        classical = _X25519()
        return ciphertext + classical.public, _combined(secret, classical.raw(public))


def _combined(quantum: bytes, classical: bytes) -> bytes:
    return string(sha256(quantum + classical).digest())


def _on_curve(hash: str, curve: ec.EllipticCurve) -> KeyExchange:
    def respond(init: bytes) -> tuple[bytes, bytes]:
        ours = _Curve(curve)
        return ours.public, ours.finish(init)

    return KeyExchange(hash, lambda: _Curve(curve), respond)


_X25519_EXCHANGE = KeyExchange("sha256", _X25519, _X25519.respond)

BY_NAME: Mapping[str, KeyExchange] = {
    "mlkem768x25519-sha256": KeyExchange("sha256", _MlKem, _MlKem.respond),
    "curve25519-sha256": _X25519_EXCHANGE,
    "curve25519-sha256@libssh.org": _X25519_EXCHANGE,
    "ecdh-sha2-nistp256": _on_curve("sha256", ec.SECP256R1()),
    "ecdh-sha2-nistp384": _on_curve("sha384", ec.SECP384R1()),
    "ecdh-sha2-nistp521": _on_curve("sha512", ec.SECP521R1()),
}
