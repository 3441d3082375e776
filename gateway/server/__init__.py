"""Runs the API under gunicorn, for `gateway serve`.

Only the workers load the application, which takes most of the memory. gunicorn's arbiter does without.
"""

import ctypes
import multiprocessing
import resource
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from typing import Any

from gunicorn import glogging
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

from gateway.server.gate import Gate
from gateway.settings import Settings

_M_ARENA_MAX = -8  # malloc.h
_OPEN_FILES = 8192
GRACEFUL_SECONDS = 60  # enough for a create that has begun; the systemd unit waits longer


class Server(BaseApplication):
    """gunicorn, configured by `Settings`. Each worker makes its own application after the fork."""

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
            "sendfile": False,  # it would bypass the gate's connections
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
        _allow_open_files()
        return create_app(self._settings)


class Worker(ThreadWorker):
    """gunicorn's thread worker behind a gate: its threads get only complete requests."""

    def run(self) -> None:
        gates = [Gate(listener, lambda: self.alive) for listener in self.sockets]
        for gate in gates:
            gate.start()
        self.sockets = list[Any](gates)
        super().run()


class _Log(glogging.Logger):
    """Sends gunicorn's own lines to the gateway's log."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True


def require_fit(settings: Settings) -> None:
    """Raises `StartRefused` when an application cannot be made of these settings.

    It is tried in a separate process, so that the arbiter does not keep the memory.
    """
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


def _allow_open_files() -> None:
    """systemd's default is 1024; each of gunicorn's connections takes three."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _OPEN_FILES), most))


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
