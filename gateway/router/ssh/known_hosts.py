"""The keys that a known_hosts file names for one host."""

import fnmatch
import hmac
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownHost:
    """Public keys in the wire's form."""

    trusted: frozenset[bytes]
    revoked: frozenset[bytes]

    @classmethod
    def find(cls, text: str, host: str, port: int) -> "KnownHost":
        """The lines of `[host]:port`, or of `host` alone where the port is 22, as OpenSSH writes them."""
        name = host if port == 22 else f"[{host}]:{port}"
        found: dict[str, set[bytes]] = {"": set(), "@revoked": set()}
        for marker, patterns, key in _lines(text):
            if marker in found and _matches(patterns, name):
                found[marker].add(key)
        return cls(frozenset(found[""] - found["@revoked"]), frozenset(found["@revoked"]))


def _lines(text: str) -> Iterator[tuple[str, str, bytes]]:
    for line in text.splitlines():
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) < 3 or words[0].startswith("#"):
            continue
        try:
            yield marker, words[0], b64decode(words[2], validate=True)
        except ValueError:
            continue


def _matches(patterns: str, name: str) -> bool:
    if patterns.startswith("|1|"):
        return _is_hash_of(patterns, name)
    each = patterns.split(",")
    if any(_fits(pattern[1:], name) for pattern in each if pattern.startswith("!")):
        return False
    return any(_fits(pattern, name) for pattern in each if not pattern.startswith("!"))


def _fits(pattern: str, name: str) -> bool:
    """`*` and `?` stand for parts of a host, and never for the brackets of another port."""
    if pattern.startswith("[") != name.startswith("["):
        return False
    return fnmatch.fnmatchcase(name.lower().replace("[", "("), pattern.lower().replace("[", "("))


def _is_hash_of(hashed: str, name: str) -> bool:
    try:
        salt, digest = (b64decode(part) for part in hashed[3:].split("|"))
    except ValueError:
        return False
    return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)
