"""What stands between a gateway and Docker's socket: passes on what is allowed, and remembers all of it."""

import re
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

_REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class DockerRelay:
    """At `path`, before Docker's socket at `upstream`. `allowed` are expressions for `METHOD /path`.

    Each connection carries one request, which the relay asks for: after it bytes are passed on as they
    come, those of an upgraded connection too.
    """

    def __init__(self, path: Path, upstream: Path, allowed: Sequence[str]) -> None:
        self.used: set[str] = set()  # of those allowed
        self.refused: list[str] = []
        self._allowed = {expression: re.compile(expression) for expression in allowed}
        self.path = path
        self._upstream = upstream
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                if not (piece := client.recv(65536)):
                    return
                head += piece
            if not self._may(head.split(b"?")[0].split(b" HTTP/")[0].decode()):
                client.sendall(_REFUSED)
                return
            with socket.socket(socket.AF_UNIX) as docker:
                docker.connect(str(self._upstream))
                if b"\r\nUpgrade: tcp" not in head:
                    head = re.sub(rb"\r\nConnection: [^\r]*", b"", head, count=1)
                    head = head.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
                docker.sendall(head)
                threading.Thread(target=_pass_on, args=(client, docker), daemon=True).start()
                _pass_on(docker, client)

    def _may(self, request: str) -> bool:
        for expression, compiled in self._allowed.items():
            if compiled.fullmatch(request):
                self.used.add(expression)
                return True
        self.refused.append(request)
        return False


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
