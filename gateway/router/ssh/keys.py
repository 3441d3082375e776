"""Keys in the wire's form: private ones that sign, public ones that verify."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from gateway.router.ssh.wire import Reader, SshError, mpint, string

_SMALLEST_RSA_BITS = 2048
_USER_PRESENT = 1
_RSA_HASHES: Mapping[str, Callable[[], hashes.HashAlgorithm]] = {
    "rsa-sha2-512": hashes.SHA512,
    "rsa-sha2-256": hashes.SHA256,
}
_CURVES: Mapping[str, tuple[ec.EllipticCurve, Callable[[], hashes.HashAlgorithm]]] = {
    "nistp256": (ec.SECP256R1(), hashes.SHA256),
    "nistp384": (ec.SECP384R1(), hashes.SHA384),
    "nistp521": (ec.SECP521R1(), hashes.SHA512),
}


class PrivateKey(Protocol):
    """`algorithms` are those that it signs with, the preferred one first; `blob` is its public half."""

    algorithms: tuple[str, ...]
    blob: bytes

    def sign(self, algorithm: str, data: bytes) -> bytes: ...


def load_private_key(data: bytes) -> PrivateKey:
    """From OpenSSH's form or a PEM. Raises ValueError for a key that cannot be used, with the reason."""
    load = (
        serialization.load_ssh_private_key
        if b"BEGIN OPENSSH PRIVATE KEY" in data
        else serialization.load_pem_private_key
    )
    try:
        key = load(data, None)
    except (TypeError, UnsupportedAlgorithm) as error:  # a passphrase is missing
        raise ValueError(str(error)) from None
    if isinstance(key, Ed25519PrivateKey):
        return _Ed25519(key)
    if isinstance(key, rsa.RSAPrivateKey):
        return _Rsa(key)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _Ecdsa(key)
    raise ValueError("its kind is not supported: use ed25519, ECDSA or RSA")


class _Ed25519:
    algorithms: tuple[str, ...] = ("ssh-ed25519",)

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.blob = string("ssh-ed25519") + string(key.public_key().public_bytes_raw())

    def sign(self, algorithm: str, data: bytes) -> bytes:
        return string(algorithm) + string(self._key.sign(data))


class _Rsa:
    algorithms: tuple[str, ...] = ("rsa-sha2-512", "rsa-sha2-256")

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        if key.key_size < _SMALLEST_RSA_BITS:
            raise ValueError(f"an RSA key of {key.key_size} bits is too weak")
        self._key = key
        public = key.public_key().public_numbers()
        self.blob = string("ssh-rsa") + mpint(public.e) + mpint(public.n)

    def sign(self, algorithm: str, data: bytes) -> bytes:
        signature = self._key.sign(data, padding.PKCS1v15(), _RSA_HASHES[algorithm]())
        return string(algorithm) + string(signature)


class _Ecdsa:
    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        curve = f"nistp{key.curve.key_size}"
        if curve not in _CURVES:
            raise ValueError(f"the curve {key.curve.name} is not supported")
        self._hash = _CURVES[curve][1]
        self.algorithms: tuple[str, ...] = (f"ecdsa-sha2-{curve}",)
        point = key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        self.blob = string(self.algorithms[0]) + string(curve) + string(point)

    def sign(self, algorithm: str, data: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(data, ec.ECDSA(self._hash())))
        return string(algorithm) + string(mpint(r) + mpint(s))


def kind_of(blob: bytes) -> str:
    """The key's type, such as `ssh-ed25519`."""
    return Reader(blob, 0).text()


def key_kind(algorithm: str) -> str:
    """The type of the keys that make signatures of this algorithm."""
    return "ssh-rsa" if algorithm in _RSA_HASHES else algorithm


def verify(algorithm: str, blob: bytes, signature: bytes, data: bytes) -> bool:
    """Whether `signature` is that of `data` by the key `blob`, with exactly this algorithm."""
    try:
        reader = Reader(signature, 0)
        if reader.text() != algorithm or kind_of(blob) != key_kind(algorithm):
            return False
        _verifier(algorithm)(_Signed(algorithm, Reader(blob, 0), reader.string(), reader.rest, data))
    except (InvalidSignature, ValueError, KeyError, OverflowError, SshError, UnsupportedAlgorithm):
        return False  # or the key is damaged: a hand-written pipe may hold any bytes
    return True


@dataclass(frozen=True, slots=True)
class _Signed:
    algorithm: str
    key: Reader
    signature: bytes
    rest: bytes  # what a security key adds: its flags and its counter
    data: bytes


def _verifier(algorithm: str) -> Callable[[_Signed], None]:
    if algorithm in _RSA_HASHES:
        return _verify_rsa
    return _verify_ed25519 if "ed25519" in algorithm else _verify_ecdsa


def _verify_rsa(signed: _Signed) -> None:
    signed.key.string()
    exponent, modulus = signed.key.mpint(), signed.key.mpint()
    if modulus.bit_length() < _SMALLEST_RSA_BITS:
        raise InvalidSignature
    key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    size = (modulus.bit_length() + 7) // 8
    # PuTTY and others leave out leading zeros.
    signature = signed.signature.rjust(size, b"\0")
    key.verify(signature, signed.data, padding.PKCS1v15(), _RSA_HASHES[signed.algorithm]())


def _verify_ed25519(signed: _Signed) -> None:
    signed.key.string()
    key = Ed25519PublicKey.from_public_bytes(signed.key.string())
    key.verify(signed.signature, _covered(signed))


def _verify_ecdsa(signed: _Signed) -> None:
    signed.key.string()
    curve, hash = _CURVES[signed.key.text()]
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, signed.key.string())
    numbers = Reader(signed.signature, 0)
    signature = encode_dss_signature(numbers.mpint(), numbers.mpint())
    key.verify(signature, _covered(signed), ec.ECDSA(hash()))


def _covered(signed: _Signed) -> bytes:
    """A security key signs hashes, its flags and its counter; its user must have touched it."""
    if not signed.algorithm.startswith("sk-"):
        return signed.data
    application = signed.key.string()
    if len(signed.rest) != 5 or not signed.rest[0] & _USER_PRESENT:
        raise InvalidSignature
    return sha256(application).digest() + signed.rest + sha256(signed.data).digest()
