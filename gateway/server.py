"""The API under gunicorn, as `gateway serve` runs it."""

import logging
import sys
from typing import Any

from gunicorn.app.base import BaseApplication

from gateway.app import create_app
from gateway.settings import Settings

GRACEFUL_SECONDS = 60  # a create in flight ends well within; the systemd unit waits longer


class Server(BaseApplication):
    """gunicorn, told what to do by `Settings`. Each worker makes its own application after the fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": f"{_bracketed(self._settings.listen)}:{self._settings.port}",
            "worker_class": "gthread",
            "workers": self._settings.workers,
            "threads": self._settings.threads,
            "timeout": 120,
            "graceful_timeout": GRACEFUL_SECONDS,
            "control_socket_disable": True,
            "proc_name": "gateway",
            "post_worker_init": _start_reaper,
            "worker_exit": _stop_reaper,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return create_app(self._settings)


def log_to_stderr() -> None:
    """One line an event."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s%(session)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_name_session)


def _name_session(record: logging.LogRecord) -> bool:
    session_id = getattr(record, "session_id", None)
    record.session = f" session_id={session_id}" if session_id else ""
    return True


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _start_reaper(worker: Any) -> None:
    worker.wsgi.extensions["reaper"].start()


def _stop_reaper(_server: Any, worker: Any) -> None:
    app = getattr(worker, "wsgi", None)  # a worker that could not load its application has none
    if app is not None:
        app.extensions["reaper"].stop()
