"""A ProxyCommand that makes a login wait first: `python -m tests.routes.held PIPE_FILE PORT USER SECONDS`.

It takes the user's pipe away and publishes a place in line, connects, and puts the pipe back after a moment.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from gateway.domain.notice import Notice, NoticeState
from gateway.domain.pipe import Pipe
from gateway.repositories.files.notices import NoticeFiles
from gateway.repositories.files.pipes import Pipes

TEXT = "No 3g.20gb is free. You are 2nd in line: yours by 14:20 KST at the latest."
READY = "Your session is ready: 3g.20gb until 18:20 KST ({left})."
IS_READY = READY.format(left="4 hours")  # as it is read


def wait_in_line(config: Path, pipe: Pipe, text: str = TEXT) -> None:
    """The user of `pipe` has no session yet."""
    notice = Notice(pipe.session_id, NoticeState.WAITING, pipe.public_keys, text)
    NoticeFiles(config).update(pipe.username, lambda: notice)
    Pipes(config).remove(pipe.session_id)


def open_session(config: Path, pipe: Pipe) -> None:
    """Without a word."""
    Pipes(config).update(lambda: pipe)
    NoticeFiles(config).update(pipe.username, lambda: None)


def open_session_and_say_so(config: Path, pipe: Pipe) -> None:
    """As the gateway does: the text for held logins first, and it stays for a minute."""
    ends = datetime.now(UTC) + timedelta(hours=4)
    notice = Notice(pipe.session_id, NoticeState.OPEN, pipe.public_keys, READY, ends)
    NoticeFiles(config).update(pipe.username, lambda: notice)
    Pipes(config).update(lambda: pipe)


@contextmanager
def opening(config: Path, pipe: Pipe, seconds: float = 1.0) -> Iterator[None]:
    """The session opens after this time, while the block runs."""
    timer = threading.Timer(seconds, open_session_and_say_so, (config, pipe))
    timer.start()
    try:
        yield
    finally:
        timer.join()


@contextmanager
def in_line(config: Path) -> Iterator[Pipe]:
    """The user of the only pipe waits in line. Yields the pipe of the session that opens later."""
    [pipe] = Pipes(config).list()
    wait_in_line(config, pipe)
    yield pipe
    NoticeFiles(config).update(pipe.username, lambda: None)


def main(config: Path, port: int, user: str, seconds: float) -> None:
    pipe = next(each for each in Pipes(config).list() if each.username == user)
    wait_in_line(config, pipe)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        threading.Thread(target=_later, args=(config, pipe, seconds), daemon=True).start()
        threading.Thread(target=_to, args=(connection,), daemon=True).start()
        while data := connection.recv(65536):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _later(config: Path, pipe: Pipe, seconds: float) -> None:
    time.sleep(seconds)
    open_session(config, pipe)


def _to(connection: socket.socket) -> None:
    while data := os.read(sys.stdin.fileno(), 65536):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], float(sys.argv[4]))
