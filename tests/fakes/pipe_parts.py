"""Keys and pipes for tests."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.domain.pipe import Pipe


def key_pair() -> tuple[str, str]:
    """A private key and its public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return private, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


_PRIVATE, _PUBLIC = key_pair()


def pipe(session_id: str = "s1", username: str = "user123", **changes: object) -> Pipe:
    parts: dict[str, object] = {
        "public_keys": (_PUBLIC,),
        "host": "10.211.0.2",
        "port": 2222,
        "private_key": _PRIVATE,
        "host_key": _PUBLIC,
    }
    return Pipe(session_id=session_id, username=username, **{**parts, **changes})  # type: ignore[arg-type]
