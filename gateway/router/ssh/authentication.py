"""Logins by public key (RFC 4252), for both roles."""

from collections.abc import Callable
from dataclasses import dataclass

from gateway.router.ssh import keys, wire
from gateway.router.ssh.algorithms import SIGNATURES
from gateway.router.ssh.keys import PrivateKey
from gateway.router.ssh.transport import Exchange, Transport
from gateway.router.ssh.wire import Reader, SshError, string

# An agent with many keys offers them all, and people try several of them; sshd allows six.
MAX_TRIES = 16
LONGEST_USER = 255  # letters; a name may hold more than a user id where a pattern of the pipe file matches it

_METHODS = ("publickey", "publickey-hostbound-v00@openssh.com")
_CONNECTION = "ssh-connection"
_AUTHENTICATION = "ssh-userauth"


@dataclass(frozen=True, slots=True)
class _Request:
    """One try with a public key. `signed` is what the signature covers; None while the client only asks."""

    algorithm: str
    blob: bytes
    signature: bytes
    signed: bytes | None


class KeyRefused(SshError):
    """The server accepts no login with the key."""

    def __init__(self) -> None:
        super().__init__("the key was refused", code=wire.NO_MORE_AUTH_METHODS)


class ServerAuthentication:
    """Lets in who proves a key that `admits(user, key)` accepts, and then calls `accepted(user, key)`.

    `user` is empty until the client has named one, and `tries` counts what was refused. `awaits_proof`: the
    client has asked about a key that fits, and has not signed with it.
    """

    def __init__(
        self,
        transport: Transport,
        admits: Callable[[str, bytes], bool],
        accepted: Callable[[str, bytes], None],
    ) -> None:
        self.user = ""
        self.tries = 0
        self.awaits_proof = False
        self.refused_algorithms: set[str] = set()
        self._transport = transport
        self._admits = admits
        self._accepted = accepted
        self._is_done = False

    @property
    def summary(self) -> str:
        """What was tried without success."""
        refused = (
            f", {' '.join(sorted(self.refused_algorithms))} is not accepted"
            if self.refused_algorithms
            else ""
        )
        return f"{self.tries} tries{refused}"

    def packet(self, payload: bytes) -> bool:
        """Whether the packet is one of authentication. Raises SshError."""
        if payload[0] == wire.SERVICE_REQUEST:
            self._serve(Reader(payload).text())
        elif payload[0] == wire.USERAUTH_REQUEST:
            if not self._is_done:
                self._request(payload)
        else:
            return payload[0] == wire.EXT_INFO
        return True

    def show(self, text: str) -> None:
        """Show lines to the user before the login has succeeded or failed."""
        self._transport.send(bytes((wire.USERAUTH_BANNER,)) + string(text) + string(""))

    def succeed(self) -> None:
        self._transport.send(bytes((wire.USERAUTH_SUCCESS,)))
        self._transport.log_in()

    def _serve(self, service: str) -> None:
        if service != _AUTHENTICATION:
            raise SshError("there is no such service", repr(service[:40]), wire.SERVICE_NOT_AVAILABLE)
        self._transport.send(bytes((wire.SERVICE_ACCEPT,)) + string(service))

    def _request(self, payload: bytes) -> None:
        reader = Reader(payload)
        user, service, method = reader.text(), reader.text(), reader.text()
        if service != _CONNECTION:
            raise SshError("there is no such service", repr(service[:40]), wire.SERVICE_NOT_AVAILABLE)
        if self.user and user != self.user:
            raise SshError("the user's name may not change during a login")
        if len(user) > LONGEST_USER:
            raise SshError("the user's name is too long", f"{len(user)} letters")
        self.user = user
        if method == "none":
            self._fail(counts=self.tries > 0)
        elif method not in _METHODS:
            self._fail()
        else:
            self._try(_key_request(reader, method, payload, self._transport.exchange))

    def _try(self, request: _Request) -> None:
        if request.algorithm not in SIGNATURES:
            self.refused_algorithms.add(wire.shown(request.algorithm.encode(), 40))
            self._fail()
        elif not self._admits(self.user, request.blob):
            self._fail()
        elif request.signed is None:
            self.awaits_proof = True
            answer = string(request.algorithm) + string(request.blob)
            self._transport.send(bytes((wire.USERAUTH_PK_OK,)) + answer)
        elif keys.verify(request.algorithm, request.blob, request.signature, request.signed):
            self._is_done = True
            self._accepted(self.user, request.blob)
        else:
            self._fail()

    def _fail(self, counts: bool = True) -> None:
        self.tries += counts
        self.awaits_proof = False
        if self.tries > MAX_TRIES:
            raise SshError("Too many authentication failures")
        self._transport.send(bytes((wire.USERAUTH_FAILURE,)) + string("publickey") + b"\0")


def _key_request(reader: Reader, method: str, payload: bytes, exchange: Exchange) -> _Request:
    is_signed, algorithm, blob = reader.boolean(), reader.text(), reader.string()
    if method != "publickey" and reader.string() != exchange.host_key:
        raise SshError("the login is bound to another host key")
    if not is_signed:
        return _Request(algorithm, blob, b"", None)
    covered = payload[: len(payload) - len(reader.rest)]
    return _Request(algorithm, blob, reader.string(), string(exchange.session_id) + covered)


class ClientAuthentication:
    """Logs in as `user` with `key`, and then calls `accepted`."""

    def __init__(
        self, transport: Transport, user: str, key: PrivateKey, accepted: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._user = user
        self._key = key
        self._accepted = accepted
        self._is_done = False

    def begin(self) -> None:
        self._transport.send(bytes((wire.SERVICE_REQUEST,)) + string(_AUTHENTICATION))

    def packet(self, payload: bytes) -> bool:
        """Whether the packet is one of authentication. Raises SshError."""
        if self._is_done:  # an sshd that its user steers must not make the router log in again and again
            return False
        if payload[0] == wire.SERVICE_ACCEPT:
            self._transport.send(self._request())
        elif payload[0] == wire.USERAUTH_FAILURE:
            raise KeyRefused
        elif payload[0] == wire.USERAUTH_SUCCESS:
            self._is_done = True
            self._transport.log_in()
            self._accepted()
        else:
            return payload[0] in (wire.EXT_INFO, wire.USERAUTH_BANNER)
        return True

    def _request(self) -> bytes:
        algorithm = self._key.algorithms[0]
        fields = (self._user, _CONNECTION, "publickey")
        request = bytes((wire.USERAUTH_REQUEST,)) + b"".join(map(string, fields))
        request += b"\1" + string(algorithm) + string(self._key.blob)
        signed = string(self._transport.exchange.session_id) + request
        return request + string(self._key.sign(algorithm, signed))
