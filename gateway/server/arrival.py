"""Collects the bytes of one HTTP request until it is complete.

h11 finds the end of the request. gunicorn parses the request again.
"""

from enum import Enum, auto

import h11

from gateway.api.limits import LARGEST_BODY

LONGEST_LINE, LARGEST_HEADER = 4094, 8190  # bytes; gunicorn has the same limits
MOST_HEADERS = 50
LARGEST_HEAD = LONGEST_LINE + MOST_HEADERS * LARGEST_HEADER


class Progress(Enum):
    PARTIAL = auto()  # more bytes must come
    COMPLETE = auto()
    REFUSED = auto()  # not HTTP; more bytes do not change this
    TOO_LARGE = auto()  # more bytes do not change this either


class Arrival:
    """`data` has the bytes of the request. After its end, `rest` has the bytes that follow it."""

    def __init__(self, largest_head: int = LARGEST_HEAD, largest_body: int = LARGEST_BODY) -> None:
        self.data = bytearray()
        self.rest = b""
        self._largest_body = largest_body
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=largest_head)
        self._body_bytes = 0

    @property
    def expects_continue(self) -> bool:
        """Whether the client sends the body only after an interim response 100."""
        return self._parser.they_are_waiting_for_100_continue

    def feed(self, data: bytes) -> Progress:
        """Add the next bytes, at least one."""
        self.data += data
        try:
            self._parser.receive_data(data)
            return self._progress()
        except h11.RemoteProtocolError:
            return Progress.REFUSED

    def _progress(self) -> Progress:
        while self._body_bytes <= self._largest_body:
            event = self._parser.next_event()
            if event is h11.NEED_DATA:
                return Progress.PARTIAL
            if isinstance(event, h11.EndOfMessage):
                self.rest, _ = self._parser.trailing_data
                del self.data[len(self.data) - len(self.rest) :]
                return Progress.COMPLETE
            if isinstance(event, h11.Data):
                self._body_bytes += len(event.data)
            elif isinstance(event, h11.Request) and _announced_bytes(event) > self._largest_body:
                break
        return Progress.TOO_LARGE


def _announced_bytes(request: h11.Request) -> int:
    return int(dict(request.headers).get(b"content-length", 0))
