"""SSH keys: the public keys that the gateway accepts, and the key pairs that it makes."""

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import InvalidRequest

MAX_KEYS = 20
_LONGEST_LINE = 16384  # characters
KINDS = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_SMALLEST_RSA = 2048  # bits; current distributions refuse shorter keys


@dataclass(frozen=True, slots=True)
class KeyPair:
    """`private` is an OpenSSH PEM, `public` one line `ssh-ed25519 AAAA…`."""

    private: str
    public: str


def make_pair() -> KeyPair:
    """Generate an ed25519 key pair."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private=private.decode(), public=public.decode())


def parse_public_keys(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of `lines` in their order, without comments and duplicates.

    Each line has the form `type base64 [comment]`. Raises `InvalidRequest` with one message for each invalid
    line.
    """
    if not 1 <= len(lines) <= MAX_KEYS:
        raise _invalid([f"Give 1 to {MAX_KEYS} public keys, not {len(lines)}."])
    problems = [
        f"Key {number}: {problem}" for number, line in enumerate(lines, 1) if (problem := _problem(line))
    ]
    if problems:
        raise _invalid(problems)
    return tuple(dict.fromkeys(" ".join(line.split()[:2]) for line in lines))


def fingerprint(key: str) -> str:
    """Return `SHA256:…` of a key `type base64`, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(b64decode(key.split()[1])).digest()
    return f"SHA256:{b64encode(digest).decode().rstrip('=')}"


def _invalid(messages: list[str]) -> InvalidRequest:
    detail = f"The SSH public keys are invalid. {' '.join(messages)}"
    return InvalidRequest(detail, {"ssh_public_keys": messages})


def _problem(line: str) -> str | None:
    """Return what is wrong with a line. The sentence never quotes the line, which may be a secret."""
    if "PRIVATE KEY" in line:
        return (
            "this is a PRIVATE key, and it is no longer secret: make a new key pair and send its .pub file."
        )
    if len(line) > _LONGEST_LINE or any(
        ord(character) < 32 and character != "\t" for character in line.strip()
    ):
        return "this is not one short line such as that of ~/.ssh/id_ed25519.pub."
    words = line.split()
    if not words or words[0] not in KINDS:
        if any(word in KINDS for word in words):
            return "options before the key are not supported: begin with the key's type."
        return f"this is not an OpenSSH public key of a supported type ({', '.join(KINDS)})."
    return _key_problem(" ".join(words[:2]))


def is_public_key(line: str) -> bool:
    """Whether `line` is an intact OpenSSH public key, of whatever type and length."""
    return _loaded(line) is not None


def _loaded(line: str) -> serialization.SSHPublicKeyTypes | None:
    try:
        return serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None


def _key_problem(line: str) -> str | None:
    key = _loaded(line)
    if key is None:
        return "the key's data is damaged: copy the whole line of the .pub file."
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _SMALLEST_RSA:
        return (
            f"an RSA key of {key.key_size} bits is too short: use ed25519, or RSA with {_SMALLEST_RSA} bits "
            "or more."
        )
    return None
