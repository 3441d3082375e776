"""Runs the API under gunicorn, for `gateway serve`.

The application needs most of the memory, so only the workers load it, and not gunicorn's arbiter.
"""

import ctypes
import gc
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import Any

from gunicorn import glogging, util
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from gateway.server.arrival import LARGEST_HEADER, LONGEST_LINE, MOST_HEADERS
from gateway.server.body import with_checked_bodies
from gateway.server.door import Door, DoorGate
from gateway.server.gate import Gate, problem
from gateway.settings import Settings

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # malloc.h
_OWN_MAPPING_BYTES = 128 * 1024
_OPEN_FILES = 8192
_YOUNG_OBJECTS = 100_000  # Python's default is 700
GRACEFUL_SECONDS = 60  # enough to finish a create; the systemd unit waits longer


class Server(BaseApplication):
    """gunicorn, configured by `Settings`. Each worker makes its own application after the fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.door = Door(settings.state_dir)
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": _bind(self._settings),
            "umask": 0o117,  # of a unix socket: 0660
            "worker_class": "gateway.server.Worker",
            "workers": self._settings.workers,
            "threads": self._settings.threads,
            "sendfile": False,  # it would bypass the gate's connections
            "limit_request_line": LONGEST_LINE,
            "limit_request_fields": MOST_HEADERS,
            "limit_request_field_size": LARGEST_HEADER,
            "timeout": 120,
            "graceful_timeout": GRACEFUL_SECONDS,
            "logger_class": _Log,
            "control_socket_disable": True,
            # A client must not choose the path prefix of the application: --public-url sets it.
            "forwarded_allow_ips": "",
            "forwarder_headers": "",
            "proc_name": "gateway",
            "post_worker_init": _start_reaper,
            "worker_exit": _stop_reaper,
            "on_exit": lambda _server: self.door.remove(),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from gateway.app import create_app

        _return_memory()
        _allow_open_files()
        app = create_app(self._settings, self.door.path)
        app.wsgi_app = with_checked_bodies(app.wsgi_app)  # type: ignore[method-assign, assignment]
        if self._settings.is_cluster:
            collect_rarely()
        return app


class Worker(ThreadWorker):
    """gunicorn's thread worker behind gates: its threads get only complete requests."""

    app: Server

    def run(self) -> None:
        util.write_error = _write_problem  # type: ignore[assignment]
        gates = [Gate(listener, lambda: self.alive) for listener in self.sockets]
        gates.append(DoorGate(self.app.door.listener, lambda: self.alive))
        for gate in gates:
            gate.start()
        self.sockets = list[Any](gates)
        super().run()


def _write_problem(connection: Any, status: int, title: str, message: str) -> None:
    """Answer what is not HTTP, or exceeds gunicorn's limits, in place of gunicorn's own page."""
    connection.sendall(problem(status, title.lower().replace(" ", "-"), title, _ADVICE.get(status, message)))


_ADVICE = {
    400: "This is not a request of HTTP/1.1 with a valid request line and valid headers.",
    414: f"A request line has at most {LONGEST_LINE} bytes.",
    417: "The gateway knows only the expectation 100-continue: leave the header Expect out.",
    431: f"A request has at most {MOST_HEADERS} headers of {LARGEST_HEADER} bytes each.",
    500: "This is a bug in the gateway; its log has the details.",
}


class _Log(glogging.Logger):
    """Sends gunicorn's own lines to the gateway's log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def require_fit(settings: Settings) -> None:
    """Raise `StartRefused` if these settings do not give an application.

    A separate process makes the application, so that the arbiter does not keep its memory.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as child:
        child.submit(_try, settings).result()


def _try(settings: Settings) -> None:
    from gateway.app import create_app, require_own_database

    require_own_database(settings)
    create_app(settings)


def _return_memory() -> None:
    """Let glibc use two memory arenas, and give large blocks back to the kernel. By default it keeps freed
    memory in up to 8 arenas per core, and blocks as large as the largest one that was ever freed."""
    with suppress(OSError, AttributeError):  # other C libraries have no `mallopt`
        allocator = ctypes.CDLL(None)
        allocator.mallopt(_M_ARENA_MAX, 2)
        allocator.mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)


def collect_rarely() -> None:
    """Leave what is loaded by now out of Python's garbage collections, and let these begin later. A create on
    a large cluster makes ten thousands of objects for some milliseconds. With the defaults they would bring
    on a collection of the whole heap, of 0.1 s, at each create."""
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)


def _allow_open_files() -> None:
    """Raise the limit of open files: systemd's default is 1024, and each connection needs three."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, _OPEN_FILES), hard))


def _bind(settings: Settings) -> str:
    if settings.listen.startswith("unix:"):
        return settings.listen
    address = f"[{settings.listen}]" if ":" in settings.listen else settings.listen
    return f"{address}:{settings.port}"


def _start_reaper(worker: Any) -> None:
    from gateway.app import Gateway

    Gateway.of(worker.app.callable).reaper.start()


def _stop_reaper(_server: Any, worker: Any) -> None:
    app = worker.app.callable  # None if the worker could not load its application
    if app is not None:
        from gateway.app import Gateway

        Gateway.of(app).reaper.stop()
