"""The algorithms that are offered, by name, and how two sides agree on them (RFC 4253, section 7.1).

A client without a login can make the router compute only what is cheap: no Diffie-Hellman over
numbers, no RSA key exchange. Nothing rests on SHA-1. Some names are here for one kind of client:
NIST's curves and the MACs without `etm` are all that JSch 0.1.55 and libssh2 1.10 have.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.router.ssh.wire import (
    KEXINIT,
    KEY_EXCHANGE_FAILED,
    Reader,
    SshError,
    first_common,
    names,
)

KEY_EXCHANGES = (
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
)
SIGNATURES = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-512",
    "rsa-sha2-256",
)
CIPHERS = (
    "chacha20-poly1305@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
MACS = (
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
)

EXT_INFO = {"client": "ext-info-c", "server": "ext-info-s"}
STRICT = {"client": "kex-strict-c-v00@openssh.com", "server": "kex-strict-s-v00@openssh.com"}
# These stand in the list of key exchanges, and are none.
_MARKS = frozenset((*EXT_INFO.values(), *STRICT.values()))

_WHAT = ("key exchange", "host key algorithm", *2 * ("cipher",), *2 * ("MAC",), *2 * ("compression",))
_WITH_OWN_INTEGRITY = ("chacha20-poly1305@openssh.com", "aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
_LONGEST_LIST = 200  # letters in an error


@dataclass(frozen=True, slots=True)
class Offer:
    """What one side's KEXINIT says. `lists` holds ten name lists in the order of the RFC."""

    packet: bytes
    lists: tuple[tuple[str, ...], ...]
    guesses: bool

    @classmethod
    def make(cls, role: str, host_keys: Sequence[str], ciphers: Sequence[str] = CIPHERS) -> "Offer":
        """The offer of `role`, "client" or "server"."""
        exchanges = (*KEY_EXCHANGES, EXT_INFO[role], STRICT[role])
        both = (tuple(ciphers), tuple(ciphers), MACS, MACS, ("none",), ("none",), (), ())
        return cls.of((exchanges, tuple(host_keys), *both))

    @classmethod
    def of(cls, lists: Sequence[tuple[str, ...]]) -> "Offer":
        packet = bytes((KEXINIT,)) + os.urandom(16) + b"".join(map(names, lists)) + bytes(5)
        return cls(packet, tuple(lists), guesses=False)

    @classmethod
    def parse(cls, packet: bytes) -> "Offer":
        reader = Reader(packet, start=17)
        lists = tuple(reader.names() for _ in range(10))
        return cls(packet, lists, guesses=reader.boolean())

    @property
    def key_exchanges(self) -> tuple[str, ...]:
        return self.lists[0]


@dataclass(frozen=True, slots=True)
class Choice:
    """What both sides use. `wrong_guess`: the side that guessed sends a packet that must be ignored."""

    key_exchange: str
    host_key: str
    ciphers: tuple[str, str]  # from the client, from the server
    macs: tuple[str, str]
    wrong_guess: bool

    @classmethod
    def of(cls, client: Offer, server: Offer) -> "Choice":
        """Raises SshError, with both lists, where there is nothing in common."""
        pairs = list(zip(client.lists, server.lists, strict=True))
        found = [_agreed(what, *pair) for what, pair in zip(_WHAT, pairs, strict=False)]
        ciphers, macs = (found[2], found[3]), (found[4], found[5])
        for cipher, mac, pair in zip(ciphers, macs, pairs[4:6], strict=True):
            if not mac and cipher not in _WITH_OWN_INTEGRITY:
                raise _nothing_in_common("MAC", *pair)
        # A guess is right only if both sides prefer the same two algorithms, whatever is chosen.
        wrong = any(theirs[:1] != ours[:1] for theirs, ours in pairs[:2])
        return cls(found[0], found[1], ciphers, macs, wrong)


def _agreed(what: str, clients: Sequence[str], servers: Sequence[str]) -> str:
    found = first_common([name for name in clients if name not in _MARKS], servers)
    if found is None and what != "MAC":
        raise _nothing_in_common(what, clients, servers)
    return found or ""


def _nothing_in_common(what: str, clients: Sequence[str], servers: Sequence[str]) -> SshError:
    offers = f"the client has {','.join(clients)[:_LONGEST_LIST]!r}, the server {','.join(servers)!r}"
    return SshError(f"there is no common {what}", offers, KEY_EXCHANGE_FAILED)
