"""What one `from` of a pipe means, as SSHPiper 1.4 to 1.6 read it, without its open doors.

SSHPiper lets anybody in where a pipe has no keys and checks no host where it has no known hosts;
such a pipe is no route here.
"""

import os
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.domain.pipe import UserMatch

_KEY = re.compile(r"(?:^|\s)(?:ssh-|ecdsa-|sk-)\S+\s+([A-Za-z0-9+/]+={0,2})(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where a connection goes, and with which keys."""

    host: str
    port: int
    username: str
    private_key: bytes
    known_hosts: bytes


@dataclass(frozen=True, slots=True)
class _Data:
    """What a `_data` field holds, or the files that its twin names: those are read at each login."""

    directory: Path
    files: tuple[str, ...]
    data: tuple[bytes, ...]

    @classmethod
    def of(cls, fields: Mapping[str, Any], name: str, directory: Path) -> "_Data":
        decoded = tuple(b64decode(text, validate=True) for text in _texts(fields, f"{name}_data"))
        found = cls(directory, _texts(fields, name), decoded)
        if not found.files and not any(decoded):
            raise ValueError(f"it has no {name}")
        return found

    def read(self, users: Mapping[str, str]) -> bytes:
        read = (self.directory.joinpath(_expanded(file, users)).read_bytes() for file in self.files)
        return b"\n".join((*read, *self.data))


@dataclass(frozen=True, slots=True)
class Route:
    """`username` is a regular expression when `pattern` is set."""

    session_id: str | None
    match: UserMatch
    host: str
    port: int
    upstream_username: str
    authorized_keys: _Data
    private_key: _Data
    known_hosts: _Data

    @classmethod
    def of(cls, entry: Mapping[str, Any], source: Mapping[str, Any], directory: Path) -> "Route":
        """Raises ValueError, with what is missing, for what must not be served."""
        target = entry.get("to") or {}
        host, port = _address(str(target.get("host") or ""))
        return cls(
            session_id=str(entry["session_id"]) if entry.get("session_id") else None,
            match=UserMatch.of(source),
            host=host,
            port=port,
            upstream_username=str(target.get("username") or ""),
            authorized_keys=_Data.of(source, "authorized_keys", directory),
            private_key=_Data.of(target, "private_key", directory),
            known_hosts=_Data.of(target, "known_hosts", directory),
        )

    def matches(self, username: str) -> bool:
        return self.match.matches(username)

    def admits(self, username: str, key: bytes) -> bool:
        """Whether `key`, in the wire's form, opens the door. Raises OSError for a file that is gone."""
        text = self.authorized_keys.read(self._users(username)).decode(errors="replace")
        return key in set(public_keys(text))

    def upstream(self, username: str) -> Upstream:
        users = self._users(username)
        private_key, known_hosts = self.private_key.read(users), self.known_hosts.read(users)
        if not known_hosts.strip():
            raise ValueError("it has no known_hosts")
        return Upstream(self.host, self.port, users["UPSTREAM_USER"], private_key, known_hosts)

    def _users(self, username: str) -> dict[str, str]:
        upstream = self.upstream_username
        if self.match.pattern:
            upstream = "".join(_replaced(self.match.pattern, username, upstream))
        return {"DOWNSTREAM_USER": username, "UPSTREAM_USER": upstream or username}


def public_keys(text: str) -> Iterator[bytes]:
    """The keys of an authorized_keys file; like SSHPiper, without a look at their options."""
    for line in text.splitlines():
        if not line.lstrip().startswith("#") and (found := _KEY.search(line)):
            with suppress(ValueError):
                yield b64decode(found[1])


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A field that may be one text or a list of them."""
    value = fields.get(name) or ()
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"its {name} is not a text")
    return texts


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, "22"
    if not host.strip("[]") or not port.isdecimal():
        raise ValueError("its host cannot be understood")
    return host.strip("[]"), int(port)


def _expanded(file: str, users: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = users.get(name)
        if found is None:
            return os.environ.get(name, "")
        if found in (".", "..") or "/" in found or "\\" in found:
            raise ValueError("its user's name cannot be part of a path")
        return found

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, file)


def _replaced(pattern: re.Pattern[str], text: str, template: str) -> Iterator[str]:
    """Go's `ReplaceAllString`: `$1` and `${name}` for groups, no empty match right after another one."""

    def group(reference: re.Match[str]) -> str:
        name = reference[1] or reference[2]
        key: int | str = int(name) if name.isdecimal() else name
        known = key in match.re.groupindex if isinstance(key, str) else key <= match.re.groups
        return (match[key] or "") if known else ""

    end = 0
    for match in pattern.finditer(text):
        if match.end() == end and match.start() == end and end > 0:
            continue
        yield text[end : match.start()]
        yield re.sub(r"\$(?:\{(\w+)\}|(\w+))", group, template)
        end = match.end()
    yield text[end:]
