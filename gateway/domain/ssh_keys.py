"""SSH keys: which public keys open a session's door, and the pairs that the gateway makes itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import InvalidRequest

KEYS_AT_MOST = 20
_LONGEST_LINE = 16384
_KINDS = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_SMALLEST_RSA = 2048  # bits; OpenSSH servers refuse less than 1024 and distributions less than this


@dataclass(frozen=True, slots=True)
class KeyPair:
    """`private` is an OpenSSH PEM, `public` one `ssh-ed25519 AAAA…` line."""

    private: str
    public: str


def make_pair() -> KeyPair:
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return KeyPair(private=private.decode(), public=public.decode())


def parse_public_keys(lines: Sequence[str]) -> tuple[str, ...]:
    """The keys of `lines`, each `type base64 [comment]`, in order and without repeats or comments.

    Raises `InvalidRequest` that says for each line what is wrong with it.
    """
    if not 1 <= len(lines) <= KEYS_AT_MOST:
        raise _refused([f"Give 1 to {KEYS_AT_MOST} public keys, not {len(lines)}."])
    problems = [
        f"Key {number}: {problem}" for number, line in enumerate(lines, 1) if (problem := _problem(line))
    ]
    if problems:
        raise _refused(problems)
    return tuple(dict.fromkeys(" ".join(line.split()[:2]) for line in lines))


def _refused(messages: list[str]) -> InvalidRequest:
    return InvalidRequest("The SSH public keys cannot be used.", {"ssh_public_keys": messages})


def _problem(line: str) -> str | None:
    """What is wrong with one line, in a sentence that never repeats the line: it may be a secret."""
    if "PRIVATE KEY" in line:
        return "this is a PRIVATE key, now sent over the network: make a new pair and send its .pub file."
    if len(line) > _LONGEST_LINE or any(
        ord(character) < 32 and character != "\t" for character in line.strip()
    ):
        return "a public key is one short line, as in ~/.ssh/id_ed25519.pub."
    words = line.split()
    if not words or words[0] not in _KINDS:
        if any(word in _KINDS for word in words):
            return "options before the key are not supported; begin with the key's type."
        return f"not an OpenSSH public key of a supported type ({', '.join(_KINDS)})."
    return _key_problem(" ".join(words[:2]))


def _key_problem(line: str) -> str | None:
    try:
        key = serialization.load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        return "the key's data is damaged; copy the whole line of the .pub file."
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _SMALLEST_RSA:
        return f"an RSA key of {key.key_size} bits is too weak; use ed25519, or {_SMALLEST_RSA} bits or more."
    return None
