"""A pipe: the way of one user into one session, and how SSHPiper's configuration puts it.

It is checked when it is made, because SSHPiper fails open: a pipe without keys lets anybody in, and
one without a host key is not checked against any.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

Entry = Mapping[str, Any]

_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_USERNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:.]+")
_PUBLIC_KEY = re.compile(
    r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
    r" [A-Za-z0-9+/]+={0,2}( .*)?"
)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----\n[A-Za-z0-9+/=\n]+-----END ([A-Z]+ )?PRIVATE KEY-----\n?"
)


@dataclass(frozen=True, slots=True)
class Pipe:
    """One way from a user into a session. Nothing that is not whole can be one: SSHPiper lets anybody in
    through a pipe without keys, and checks no host without a host key."""

    session_id: str
    username: str
    public_keys: tuple[str, ...]
    host: str
    port: int
    private_key: str = field(repr=False)
    host_key: str

    def __post_init__(self) -> None:
        wholesome = (
            (_matches(_SESSION_ID, self.session_id), "its session id"),
            (_matches(_USERNAME, self.username), "its user name"),
            (self.public_keys and all(map(_is_public_key, self.public_keys)), "the user's public keys"),
            (_matches(_HOST, self.host), "its host"),
            (type(self.port) is int and 0 < self.port < 65536, "its port"),
            (_matches(_PRIVATE_KEY, self.private_key), "its private key"),
            (_is_public_key(self.host_key), "its host key"),
        )
        for fine, what in wholesome:
            if not fine:
                raise ValueError(f"A pipe cannot be made: {what} cannot be used.")

    @classmethod
    def of(cls, entry: Entry) -> "Pipe":
        """The pipe that `entry()` described."""
        try:
            (source,), target = entry["from"], entry["to"]
            host, _, port = target["host"].rpartition(":")
            return cls(
                session_id=entry["session_id"],
                username=source["username"],
                public_keys=tuple(_decoded(source["authorized_keys_data"]).splitlines()),
                host=host.strip("[]"),
                port=int(port),
                private_key=_decoded(target["private_key_data"]),
                host_key=_decoded(target["known_hosts_data"]).partition(" ")[2].strip(),
            )
        except (KeyError, TypeError, AttributeError, ValueError):
            raise ValueError("This is not a pipe of the gateway's.") from None

    def entry(self) -> Entry:
        """The pipe in SSHPiper's words; SSHPiper ignores `session_id`."""
        authorized_keys = "\n".join(self.public_keys) + "\n"
        known_host = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        return {
            "session_id": self.session_id,
            "from": [{"username": self.username, "authorized_keys_data": _encoded(authorized_keys)}],
            "to": {
                "host": f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}",
                "username": self.username,
                "private_key_data": _encoded(self.private_key),
                "known_hosts_data": _encoded(f"{known_host} {self.host_key}\n"),
            },
        }


def _matches(pattern: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _is_public_key(line: str) -> bool:
    if not _matches(_PUBLIC_KEY, line) or not line.isprintable():
        return False
    try:
        load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


def _decoded(data: str) -> str:
    return b64decode(data, validate=True).decode()
