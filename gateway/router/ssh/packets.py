"""From bytes to payloads and back: the binary packet protocol (RFC 4253, section 6), without a socket."""

from collections.abc import Iterator

from gateway.router.ssh import ciphers
from gateway.router.ssh.ciphers import Cipher
from gateway.router.ssh.wire import SshError

# In bytes. RFC 4253, section 6.1, asks for 35,000 at least; OpenSSH's largest packet has 256 KiB.
LARGEST_BEFORE_LOGIN = 35_000
LARGEST = 264 * 1024
_SMALLEST = 8
_SMALLEST_PADDING = 4
_SEQUENCE = 0xFFFFFFFF


class Packets:
    """Both directions of one connection. `largest` is the longest packet that is accepted, in bytes."""

    def __init__(self) -> None:
        self.largest = LARGEST_BEFORE_LOGIN
        self.received = self.sent = 0  # sequence numbers of the next packets
        self.since_keys = 0  # packets in both directions since the keys changed
        self._opener: Cipher = ciphers.Plain()
        self._sealer: Cipher = ciphers.Plain()
        self._unread = b""
        self._needed = self._opener.header  # bytes, before it is worth looking at `_unread`
        self._length = 0  # of the packet that has begun; 0: not known yet

    def open(self, data: memoryview) -> Iterator[bytes]:
        """The payloads that are complete with `data`. Raises SshError for what is no packet."""
        if self._unread:
            data = memoryview(self._unread + data)
        start = 0
        try:
            while len(data) - start >= self._needed:
                whole = self._whole(data[start:])
                if len(data) - start < whole:
                    self._needed = whole
                    break
                packet = data[start : start + whole]
                start += whole
                yield self._payload(packet)
                self._needed = self._opener.header
        finally:
            self._unread = bytes(data[start:])

    def seal(self, payload: bytes) -> bytes:
        packet = self._sealer.seal(self.sent, payload)
        self.sent = (self.sent + 1) & _SEQUENCE
        self.since_keys += 1
        return packet

    def open_with(self, cipher: Cipher, restart: bool) -> None:
        self._opener, self._needed = cipher, cipher.header
        self.received = 0 if restart else self.received

    def seal_with(self, cipher: Cipher, restart: bool) -> None:
        self._sealer = cipher
        self.sent = 0 if restart else self.sent
        self.since_keys = 0

    def _whole(self, data: memoryview) -> int:
        """The size of the packet that `data` begins with."""
        if not self._length:
            self._length = self._opener.length(self.received, data[: self._opener.header])
            if not _SMALLEST <= self._length <= self.largest:
                raise SshError("the size of a packet is outside the limits", self._length)
        return 4 + self._length + self._opener.tag

    def _payload(self, packet: memoryview) -> bytes:
        plain = self._opener.open(self.received, packet)
        self.received = (self.received + 1) & _SEQUENCE
        self.since_keys += 1
        self._length = 0
        padding = plain[0]
        if not _SMALLEST_PADDING <= padding < len(plain) - 1:
            raise SshError("a packet is damaged")
        return plain[1:-padding]
