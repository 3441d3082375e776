"""SSH's data types (RFC 4251, section 5), message numbers and protocol errors."""

from collections.abc import Iterable, Sequence

DISCONNECT = 1
IGNORE = 2
UNIMPLEMENTED = 3
DEBUG = 4
SERVICE_REQUEST = 5
SERVICE_ACCEPT = 6
EXT_INFO = 7
KEXINIT = 20
NEWKEYS = 21
KEX_INIT = 30
KEX_REPLY = 31
USERAUTH_REQUEST = 50
USERAUTH_FAILURE = 51
USERAUTH_SUCCESS = 52
USERAUTH_BANNER = 53
USERAUTH_PK_OK = 60
CONNECTION_PROTOCOL = range(80, 128)
PING = 192
PONG = 193

# Codes of a disconnect (RFC 4253, section 11.1).
SILENT = 0  # not a code: the other side does not understand SSH
PROTOCOL_ERROR = 2
KEY_EXCHANGE_FAILED = 3
SERVICE_NOT_AVAILABLE = 7
HOST_KEY_NOT_VERIFIABLE = 9
BY_APPLICATION = 11
TOO_MANY_CONNECTIONS = 12
NO_MORE_AUTH_METHODS = 14


class SshError(Exception):
    """The connection cannot go on. `reason` is one of a few sentences, `detail` what it is about.

    `code` is the code of the disconnect. `detail` alone holds text that the peer sent.
    """

    def __init__(self, reason: str, detail: object = "", code: int = PROTOCOL_ERROR) -> None:
        super().__init__(f"{reason}: {detail}" if detail != "" else reason)
        self.reason = reason
        self.detail = str(detail)
        self.code = code


def shown(text: bytes, limit: int = 80) -> str:
    """What another program sent, fit for a log line or a message."""
    printable = text[:limit].decode("utf-8", "replace").strip()
    return "".join(letter if letter.isprintable() else "?" for letter in printable)


class Reader:
    """Reads the fields of a packet in their order. Raises SshError where the packet is too short."""

    def __init__(self, packet: bytes, start: int = 1) -> None:
        self._packet = packet
        self._at = start

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._packet):
            raise SshError("a packet is shorter than its fields")
        start, self._at = self._at, end
        return self._packet[start:end]

    def boolean(self) -> bool:
        return self.take(1) != b"\0"

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.uint32())

    def mpint(self) -> int:
        return int.from_bytes(self.string(), "big", signed=True)

    def text(self) -> str:
        try:
            return self.string().decode()
        except UnicodeDecodeError:
            raise SshError("a text is not UTF-8") from None

    def names(self) -> tuple[str, ...]:
        text = self.string().decode("ascii", "replace")
        return tuple(text.split(",")) if text else ()

    @property
    def rest(self) -> bytes:
        return self._packet[self._at :]


def uint32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def string(value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(4, "big") + data


def mpint(value: int) -> bytes:
    """A number that is not negative."""
    return string(value.to_bytes(value.bit_length() // 8 + 1 if value else 0, "big"))


def names(values: Iterable[str]) -> bytes:
    return string(",".join(values))


def disconnect(code: int, reason: str) -> bytes:
    return bytes([DISCONNECT]) + uint32(code) + string(reason) + string("en")


def plain_packet(payload: bytes) -> bytes:
    """A packet as it is sent before the first keys are in use."""
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    return uint32(1 + len(payload) + padding) + bytes([padding]) + payload + bytes(padding)


def first_common(clients: Sequence[str], servers: Sequence[str]) -> str | None:
    """The client's first choice that the server has too."""
    return next((name for name in clients if name in servers), None)
