"""The version lines that begin a connection (RFC 4253, section 4.2)."""

from gateway.router.ssh.wire import SILENT, SshError, shown

# OpenSSH uses some extensions only with a peer that names itself so: with another name
# `ssh gw yes | head -1` does not end. What follows the space is a comment.
OURS = b"SSH-2.0-OpenSSH_9.9 GpuSshGateway"

_LONGEST = 255  # bytes of a version line
_LONGEST_GREETING = 8192  # bytes that a server may send before it


class Identification:
    """Reads the other side's line. Only a server may send other lines before it."""

    def __init__(self, may_greet: bool) -> None:
        self.version = b""
        self.greeting = ""  # a server's last line before its version
        self._may_greet = may_greet
        self._unread = b""
        self._skipped = 0

    def read(self, data: memoryview) -> memoryview | None:
        """What follows the line, or None while the line is not complete. Raises SshError."""
        text = self._unread + data
        while not self.version:
            line, newline, text = text.partition(b"\n")
            self._require_ssh(line)
            if not newline:
                self._unread = line
                return None
            self._complete(line.removesuffix(b"\r"))
        return memoryview(text)

    def _require_ssh(self, line: bytes) -> None:
        begins_well = line[:4] == b"SSH-"[: len(line)]
        if not begins_well and not self._may_greet:
            raise SshError("the client does not speak SSH", repr(shown(line)), SILENT)
        if self._skipped + len(line) > (_LONGEST_GREETING if self._may_greet else _LONGEST):
            raise SshError("the version line is too long", code=SILENT)

    def _complete(self, line: bytes) -> None:
        if not line.startswith(b"SSH-"):
            self.greeting = shown(line) or self.greeting
            self._skipped += len(line)
        elif line.startswith((b"SSH-2.0-", b"SSH-1.99-")) and len(line) <= _LONGEST:
            self.version = line
        else:
            raise SshError("the version of SSH is not supported", repr(shown(line)), SILENT)
