"""The key exchanges of one connection (RFC 4253, section 7), with OpenSSH's strict form of the first one."""

import asyncio
import hashlib
from collections.abc import Mapping

from gateway.router.ssh import ciphers, key_exchange, keys, wire
from gateway.router.ssh.algorithms import CIPHERS, EXT_INFO, SIGNATURES, STRICT, Choice, Offer
from gateway.router.ssh.ciphers import Cipher
from gateway.router.ssh.identification import OURS
from gateway.router.ssh.key_exchange import Initiator, KeyExchange
from gateway.router.ssh.keys import PrivateKey
from gateway.router.ssh.known_hosts import KnownHost
from gateway.router.ssh.transport import Transport
from gateway.router.ssh.wire import HOST_KEY_NOT_VERIFIABLE, SshError, string

LATER_EXCHANGE_SECONDS = 30  # the first one is part of the login, which has a deadline of its own

# A processor's own instructions do AES; between router and session nothing else is wanted.
_UPSTREAM_CIPHERS = ("aes128-gcm@openssh.com", *CIPHERS)


class HostKeyMismatch(SshError):
    """The server's host key is not one that is known for it."""

    def __init__(self) -> None:
        super().__init__("the host key is not the known one", code=HOST_KEY_NOT_VERIFIABLE)


class Handshake:
    """What both roles share. `session_id` and `host_key` are set by the first exchange."""

    role: str
    their_role: str

    def __init__(self, transport: Transport) -> None:
        self.session_id = b""
        self.host_key = b""
        self.is_unfinished = False
        self._transport = transport
        self._is_secured = False  # the first exchange is done
        self._is_strict = False
        self._ours: Offer | None = None
        self._theirs: Offer | None = None
        self._choice: Choice | None = None
        self._ignores_next = False
        self._next: Cipher | None = None  # opens what follows the peer's NEWKEYS
        self._deadline: asyncio.TimerHandle | None = None

    def start(self) -> None:
        if self._ours:
            return
        if self._is_secured:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(LATER_EXCHANGE_SECONDS, self._is_late)
        self._ours = self._offer()
        self._transport.hold()
        self._transport.send(self._ours.packet)

    def require_allowed(self, number: int) -> None:
        if number == wire.DISCONNECT:
            return
        if number > wire.DEBUG and not (self._is_secured and not self.is_unfinished):
            raise SshError("a packet is not allowed during a key exchange", number)
        if self._is_strict and not self._is_secured:
            raise SshError("a packet is not allowed during the first key exchange", number)

    def packet(self, payload: bytes) -> None:
        if payload[0] == wire.KEXINIT:
            self._begin(Offer.parse(payload))
        elif self._choice is None:
            raise SshError("a packet belongs to no key exchange", payload[0])
        elif payload[0] == wire.NEWKEYS:
            self._finish()
        elif self._ignores_next:
            self._ignores_next = False
        elif self._next:
            raise SshError("a packet is one too many for a key exchange", payload[0])
        else:
            self._exchange(payload[0], wire.Reader(payload))

    # What the roles do.

    def _offer(self) -> Offer:
        raise NotImplementedError

    def _chosen(self, choice: Choice) -> None:
        """The algorithms are agreed on."""

    def _exchange(self, number: int, packet: wire.Reader) -> None:
        raise NotImplementedError

    def _keys_sent(self) -> None:
        """Everything from here on is encrypted with the first keys."""

    # The steps.

    def _begin(self, theirs: Offer) -> None:
        if self.is_unfinished:
            raise SshError("a key exchange began before the last one was done")
        if self._is_secured and not self._transport.is_logged_in:
            raise SshError("a second key exchange before the login")
        self.is_unfinished, self._theirs = True, theirs
        if not self._is_secured:
            self._is_strict = STRICT[self.their_role] in theirs.key_exchanges
            if self._is_strict and self._transport.packets.received != 1:
                raise SshError("the first packet does not begin a key exchange")
        self.start()
        assert self._ours is not None
        offers = {self.role: self._ours, self.their_role: theirs}
        self._choice = Choice.of(offers["client"], offers["server"])
        self._ignores_next = theirs.guesses and self._choice.wrong_guess
        self._chosen(self._choice)

    def _method(self) -> KeyExchange:
        assert self._choice is not None
        return key_exchange.BY_NAME[self._choice.key_exchange]

    def _hash(self, host_key: bytes, init: bytes, reply: bytes, secret: bytes) -> bytes:
        assert self._ours is not None
        assert self._theirs is not None
        versions = {self.role: OURS, self.their_role: self._transport.identification.version}
        offers = {self.role: self._ours.packet, self.their_role: self._theirs.packet}
        parts = (versions["client"], versions["server"], offers["client"], offers["server"])
        text = b"".join(map(string, (*parts, host_key, init, reply))) + secret
        return hashlib.new(self._method().hash, text).digest()

    def _use(self, secret: bytes, digest: bytes) -> None:
        """Send NEWKEYS, and all that follows with the new keys."""
        self.session_id = self.session_id or digest
        from_client, from_server = self._ciphers(secret, digest)
        ours, self._next = (from_server, from_client) if self.role == "server" else (from_client, from_server)
        self._transport.send(bytes((wire.NEWKEYS,)))
        self._transport.packets.seal_with(ours, restart=self._is_strict)
        if not self._is_secured:
            self._keys_sent()
        self._transport.release()

    def _ciphers(self, secret: bytes, digest: bytes) -> tuple[Cipher, Cipher]:
        assert self._choice is not None

        def derived(letter: str, size: int) -> bytes:
            start, found = secret + digest, b""
            while len(found) < size:
                more = found or letter.encode() + self.session_id
                found += hashlib.new(self._method().hash, start + more).digest()
            return found[:size]

        def cipher(name: str, mac: str, letters: str) -> Cipher:
            kind, size = ciphers.KINDS[name], ciphers.mac_bytes(mac)
            iv, key, mac_key = map(derived, letters, (kind.iv_bytes, kind.key_bytes, size))
            return kind.make(key, iv, ciphers.Mac.named(mac, mac_key) if mac else None)

        choice = self._choice
        return (
            cipher(choice.ciphers[0], choice.macs[0], "ACE"),
            cipher(choice.ciphers[1], choice.macs[1], "BDF"),
        )

    def _finish(self) -> None:
        if self._next is None:
            raise SshError("new keys before the key exchange is done")
        self._transport.packets.open_with(self._next, restart=self._is_strict)
        self._next = self._ours = self._theirs = self._choice = None
        self.is_unfinished = False
        if self._deadline:
            self._deadline.cancel()
        if not self._is_secured:
            self._is_secured = True
            self._transport.handler.secured()

    def _is_late(self) -> None:
        self._transport.close(SshError(f"a key exchange took longer than {LATER_EXCHANGE_SECONDS} s"))


class ServerHandshake(Handshake):
    """`host_keys` are named by the algorithms that they sign with."""

    role, their_role = "server", "client"

    def __init__(self, transport: Transport, host_keys: Mapping[str, PrivateKey]) -> None:
        super().__init__(transport)
        self._host_keys = host_keys
        self._reads_ext_info = False

    def _offer(self) -> Offer:
        return Offer.make("server", tuple(self._host_keys))

    def _chosen(self, choice: Choice) -> None:
        assert self._theirs is not None
        self._reads_ext_info = EXT_INFO["client"] in self._theirs.key_exchanges

    def _exchange(self, number: int, packet: wire.Reader) -> None:
        assert self._choice is not None
        if number != wire.KEX_INIT:
            raise SshError("a packet does not belong to the key exchange", number)
        init, key = packet.string(), self._host_keys[self._choice.host_key]
        reply, secret = self._method().respond(init)
        self.host_key = key.blob
        digest = self._hash(key.blob, init, reply, secret)
        signature = key.sign(self._choice.host_key, digest)
        fields = map(string, (key.blob, reply, signature))
        self._transport.send(bytes((wire.KEX_REPLY,)) + b"".join(fields))
        self._use(secret, digest)

    def _keys_sent(self) -> None:
        """Say which signatures are accepted, and that pings are answered: they hide the timing of keys."""
        if self._reads_ext_info:
            extensions = {
                "server-sig-algs": ",".join(SIGNATURES),
                "publickey-hostbound@openssh.com": "0",
                "ping@openssh.com": "0",
            }
            fields = b"".join(string(name) + string(value) for name, value in extensions.items())
            count = wire.uint32(len(extensions))
            self._transport.send(bytes((wire.EXT_INFO,)) + count + fields)


class ClientHandshake(Handshake):
    """Goes on only with a host key that is known."""

    role, their_role = "client", "server"

    def __init__(self, transport: Transport, known: KnownHost) -> None:
        super().__init__(transport)
        self._known = known
        self._initiator: Initiator | None = None

    def _offer(self) -> Offer:
        kinds = {keys.kind_of(blob) for blob in self._known.trusted}
        algorithms = [name for name in SIGNATURES if keys.key_kind(name) in kinds]
        return Offer.make("client", algorithms, _UPSTREAM_CIPHERS)

    def _chosen(self, choice: Choice) -> None:
        self._initiator = self._method().begin()
        self._transport.send(bytes((wire.KEX_INIT,)) + string(self._initiator.public))

    def _exchange(self, number: int, packet: wire.Reader) -> None:
        assert self._choice is not None
        assert self._initiator is not None
        if number != wire.KEX_REPLY:
            raise SshError("a packet does not belong to the key exchange", number)
        self.host_key, reply, signature = packet.string(), packet.string(), packet.string()
        if self.host_key not in self._known.trusted:
            raise HostKeyMismatch
        secret = self._method().finish(self._initiator, reply)
        digest = self._hash(self.host_key, self._initiator.public, reply, secret)
        if not keys.verify(self._choice.host_key, self.host_key, signature, digest):
            raise HostKeyMismatch
        self._use(secret, digest)
