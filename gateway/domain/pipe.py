"""A pipe: the route of one user into one session, and its form in SSHPiper's configuration."""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from gateway.domain.ssh_keys import KINDS, is_public_key

Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class UserMatch:
    """Which login names a pipe is for: one name, or SSHPiper's `username_regex_match`."""

    username: str
    pattern: re.Pattern[str] | None

    @classmethod
    def of(cls, source: Entry) -> "UserMatch":
        """`source` is an entry of a pipe's `from`. Raises `ValueError` for an invalid expression, which
        matches nobody."""
        username = str(source.get("username") or "")
        if source.get("username_regex_match") is not True:
            return cls(username, None)
        try:
            return cls(username, re.compile(username))
        except re.error as error:
            raise ValueError(f"its username is not a regular expression: {error}") from None

    def matches(self, username: str) -> bool:
        return bool(self.pattern.search(username)) if self.pattern else self.username == username


_LOBBY = "lobby."
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_USERNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:.]+")
_PUBLIC_KEY = re.compile(rf"({'|'.join(map(re.escape, KINDS))}) [A-Za-z0-9+/]+={{0,2}}( .*)?")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----\n[A-Za-z0-9+/=\n]+-----END ([A-Z]+ )?PRIVATE KEY-----\n?"
)


@dataclass(frozen=True, slots=True)
class Pipe:
    """The route of one user into one session.

    The constructor checks every field and raises `ValueError`, because SSHPiper fails open: a pipe without
    public keys lets anyone in, and one without a host key accepts any host.
    """

    session_id: str
    username: str
    public_keys: tuple[str, ...]
    host: str
    port: int
    private_key: str = field(repr=False)
    host_key: str

    def __post_init__(self) -> None:
        checks = (
            (is_session_id(self.session_id), "session id"),
            (_matches(_USERNAME, self.username), "user name"),
            (self.public_keys and all(map(_is_public_key, self.public_keys)), "list of public keys"),
            (_matches(_HOST, self.host), "host"),
            (type(self.port) is int and 0 < self.port < 65536, "port"),
            (_matches(_PRIVATE_KEY, self.private_key), "private key"),
            (_is_public_key(self.host_key), "host key"),
        )
        for valid, field_name in checks:
            if not valid:
                raise ValueError(f"The {field_name} of the pipe is invalid.")

    @classmethod
    def of(cls, entry: Entry) -> "Pipe":
        """Return the pipe of an entry that `entry()` made. Raises `ValueError`."""
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
            raise ValueError("The entry does not describe a pipe of the gateway.") from None

    def entry(self) -> Entry:
        """Return the pipe as SSHPiper's configuration has it. SSHPiper ignores `session_id`."""
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


def lobby_id(user_id: str) -> str:
    """The `session_id` of the pipe that leads the user into the lobby. Ids of sessions are UUIDs."""
    return f"{_LOBBY}{user_id}"


def is_lobby(session_id: object) -> bool:
    return isinstance(session_id, str) and session_id.startswith(_LOBBY)


def is_session_id(text: object) -> bool:
    return _matches(_SESSION_ID, text)


def _matches(pattern: re.Pattern[str], text: object) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


@lru_cache(maxsize=4096)
def _is_public_key(line: str) -> bool:
    if not _matches(_PUBLIC_KEY, line) or not line.isprintable():
        return False
    return is_public_key(line)


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


def _decoded(data: str) -> str:
    return b64decode(data, validate=True).decode()
