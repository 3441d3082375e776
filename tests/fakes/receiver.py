"""A receiver of webhooks: a real HTTP server, with a behaviour of the test's choice."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Received:
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


@dataclass
class Receiver:
    """`answer` is what it does with a request after it was noted; by default it answers 204."""

    url: str = ""
    requests: list[Received] = field(default_factory=list)
    answer: Behaviour = field(default_factory=lambda: status(204))

    @property
    def types(self) -> list[str]:
        return [received.body["type"] for received in self.requests]


def status(number: int, **headers: str) -> Behaviour:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(number)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()

    return answer


def drip(request: BaseHTTPRequestHandler) -> None:
    """Send a byte now and then, so that no read times out."""
    request.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(200):
        request.wfile.write(b"X: y\r\n"[:1])
        request.wfile.flush()
        time.sleep(0.05)


def flood(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    for _ in range(10_000):
        request.wfile.write(b"x" * 65536)


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            receiver.requests.append(Received({k.lower(): v for k, v in self.headers.items()}, text))
            with suppress(OSError):  # the gateway closed the connection
                receiver.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_port}/hook?x=1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
