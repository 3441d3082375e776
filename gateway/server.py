"""The API under gunicorn, as `gateway serve` runs it.

Only the workers load the application: it is most of the memory, and gunicorn's arbiter needs none of it.
"""

import ctypes
import multiprocessing
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import Any

from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from gateway.settings import Settings

_M_ARENA_MAX = -8  # malloc.h
GRACEFUL_SECONDS = 60  # a create in flight ends well within; the systemd unit waits longer
REQUEST_SECONDS = 5.0
ANSWER_SECONDS = 10.0


class Server(BaseApplication):
    """gunicorn, told what to do by `Settings`. Each worker makes its own application after the fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": _bind(self._settings),
            "umask": 0o117,  # of a unix socket: 0660
            "worker_class": "gateway.server.Worker",
            "workers": self._settings.workers,
            "threads": self._settings.threads,
            "limit_request_line": 4094,  # bytes
            "limit_request_fields": 50,
            "limit_request_field_size": 8190,
            "timeout": 120,
            "graceful_timeout": GRACEFUL_SECONDS,
            "logger_class": _Log,
            "control_socket_disable": True,
            # A client must not choose the path that the application sees: --public-url names the prefix.
            "forwarded_allow_ips": "",
            "forwarder_headers": "",
            "proc_name": "gateway",
            "post_worker_init": _start_reaper,
            "worker_exit": _stop_reaper,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from gateway.app import create_app

        _keep_arenas_few()
        return create_app(self._settings)


class Worker(ThreadWorker):
    """gunicorn's thread worker with deadlines for each connection.

    gunicorn's threads read requests and write responses themselves, and wait without limit for a client that
    stops. A request must arrive whole within `REQUEST_SECONDS`; then the reading half of the connection is
    shut down, and the waiting thread sees the end of the data. The client must read the response within
    `ANSWER_SECONDS`; then the whole connection is shut down. Making the response has no deadline.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._to_send: dict[socket.socket, float] = {}
        self._to_read: dict[socket.socket, float] = {}

    def load_wsgi(self) -> None:
        super().load_wsgi()
        make = self.wsgi

        def answer(environ: Any, start_response: Any) -> Any:
            made = make(environ, start_response)
            self._to_read[environ["gunicorn.socket"]] = time.monotonic() + ANSWER_SECONDS
            return made

        self.wsgi = answer

    def handle(self, conn: Any) -> Any:
        """Runs in a thread of the pool, once for each request of a connection."""
        connection = conn.sock
        self._to_send[connection] = time.monotonic() + REQUEST_SECONDS
        try:
            return super().handle(conn)
        finally:
            del self._to_send[connection]
            self._to_read.pop(connection, None)

    def murder_keepalived(self, *arguments: Any, **options: Any) -> None:
        """The main loop's housekeeping: at least once a second."""
        super().murder_keepalived(*arguments, **options)
        _shut(self._to_send, socket.SHUT_RD)
        _shut(self._to_read, socket.SHUT_RDWR)


def _shut(deadlines: dict[socket.socket, float], how: int) -> None:
    now = time.monotonic()
    for connection, deadline in list(deadlines.items()):
        if deadline < now:
            with suppress(OSError):
                connection.shutdown(how)


class _Log(glogging.Logger):
    """gunicorn's own lines go the way of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def require_fit(settings: Settings) -> None:
    """Raises `StartRefused` when an application cannot be made of these settings; found out in a process
    of its own, whose memory goes with it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as child:
        child.submit(_try, settings).result()


def _try(settings: Settings) -> None:
    from gateway.app import create_app
    from gateway.repositories.docker.client import Docker
    from gateway.repositories.sql import owner, schema

    schema.require_current(settings.db)
    owner.require_own(settings.db, lambda: Docker().engine_id)
    create_app(settings)


def _keep_arenas_few() -> None:
    """glibc keeps freed memory in an arena for each of up to 8 threads a core; two do as well here."""
    with suppress(OSError, AttributeError):  # another C library has no such thing
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def _bind(settings: Settings) -> str:
    if settings.listen.startswith("unix:"):
        return settings.listen
    address = f"[{settings.listen}]" if ":" in settings.listen else settings.listen
    return f"{address}:{settings.port}"


def _start_reaper(worker: Any) -> None:
    from gateway.app import Gateway

    Gateway.of(worker.app.callable).reaper.start()


def _stop_reaper(_server: Any, worker: Any) -> None:
    app = worker.app.callable  # a worker that could not load its application has none
    if app is not None:
        from gateway.app import Gateway

        Gateway.of(app).reaper.stop()
