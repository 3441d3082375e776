"""Messages between the supervisor and its workers: JSON objects, some with an open socket."""

import json
import socket
from collections import deque
from typing import Any

Message = dict[str, Any]

# A message that is cut off cannot be read, and clients choose some of the texts. A letter takes at most 12
# bytes as JSON, and no message has more than five texts.
_LONGEST_TEXT = 1000  # letters
_LARGEST = 64 * 1024  # bytes


class Channel:
    """One end of a socket pair that keeps the bounds of messages. Neither end ever waits for the other."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._unsent: deque[bytes] = deque()

    @classmethod
    def pair(cls) -> tuple["Channel", "Channel"]:
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._end.fileno()

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def send(self, message: Message) -> None:
        """Send now, or keep it for `send_unsent`. Long texts arrive short. Raises OSError when the other end
        is gone."""
        self._unsent.append(_encoded(message))
        self.send_unsent()

    def send_unsent(self) -> None:
        while self._unsent:
            try:
                self._end.send(self._unsent[0])
            except BlockingIOError:
                return
            self._unsent.popleft()

    def pass_on(self, message: Message, connection: socket.socket) -> bool:
        """Send a message with an open socket, or return False where the other end is too busy."""
        try:
            socket.send_fds(self._end, [_encoded(message)], [connection.fileno()])
        except OSError:
            return False
        return True

    def receive(self) -> tuple[Message, socket.socket | None] | None:
        """The next message; None when there is none yet. Raises EOFError when the other end is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._end, _LARGEST, 1)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        connection = socket.socket(fileno=descriptors[0]) if descriptors else None
        return json.loads(data), connection

    def close(self) -> None:
        self._end.close()


def _encoded(message: Message) -> bytes:
    short = {name: fact[:_LONGEST_TEXT] if isinstance(fact, str) else fact for name, fact in message.items()}
    return json.dumps(short).encode()
