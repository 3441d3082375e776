"""The router's first process: it lets connections in and watches over its workers.

It never speaks SSH, so no client can stop it. If a worker is killed, only the worker's own connections
are lost, and another takes its place.
"""

import logging
import resource
import selectors
import signal
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from gateway.router import worker
from gateway.router.channel import Channel
from gateway.router.entrance import Entrance
from gateway.router.ledger import Ledger
from gateway.router.limits import Limits
from gateway.router.metrics import Counts, MetricsPage
from gateway.router.pool import Pool, Process
from gateway.router.reports import Reports
from gateway.router.routes import Routes
from gateway.router.ssh.keys import PrivateKey

log = logging.getLogger(__name__)

DRAIN_SECONDS = 60  # less than what stops the router waits before it kills
_TICK_SECONDS = 0.5
_BUSY_SECONDS = 0.01  # between two tries to send to a worker
_END_SECONDS = 7  # longer than a connection takes to close

_STOPPING = "the gateway is stopping; connect again in a moment"


class Supervisor:
    """`run` returns when the router has been stopped by a signal and its workers have ended."""

    def __init__(
        self,
        piper_config: Path,
        listeners: Sequence[socket.socket],
        host_keys: Mapping[str, PrivateKey],
        workers: int,
        lobby_keys: Collection[bytes] = (),
        metrics_listener: socket.socket | None = None,
    ) -> None:
        self._lobby_keys = lobby_keys
        self._piper_config = piper_config
        self._listeners = listeners
        self._host_keys = host_keys
        self._routes = Routes(piper_config)  # it reports the file's faults, for all workers
        self._pool = Pool(workers, self._work)
        counts = Counts()
        self._reports = Reports(piper_config.parent)
        self._entrance = Entrance(
            self._pool, Limits(), Ledger(self._reports), _raised_descriptor_limit(), counts
        )
        self._selector = selectors.DefaultSelector()
        self._page: MetricsPage | None = None
        if metrics_listener:

            def exposition() -> bytes:
                return counts.exposition(self._entrance.connections)

            self._page = MetricsPage(metrics_listener, exposition, self._selector)
        self._wakeup = socket.socketpair()
        self._signals = 0
        self._is_replaced = False

    def run(self) -> None:
        self._catch_signals()
        for listener in self._listeners:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
        self._start_missing_workers()
        for listener in self._listeners:
            log.info("listening", extra={"address": _name(listener)})
        while not self._signals:
            self._step()
            self._start_missing_workers()
        self._stop_listening()
        if self._is_replaced:
            log.info("stopped: the workers keep their connections")
        else:
            self._drain()

    # One round.

    def _step(self) -> None:
        self._routes.refresh()
        is_busy = any(process.channel.has_unsent for process in self._pool.processes)
        for key, _ in self._selector.select(_BUSY_SECONDS if is_busy else _TICK_SECONDS):
            now = time.monotonic()
            if isinstance(key.data, Process):
                self._read(key.data, now)
            elif isinstance(key.data, MetricsPage):
                key.data.serve(key.fileobj, now)
            elif key.fileobj in self._listeners:
                self._routes.refresh()
                self._entrance.accept(key.fileobj, now)  # type: ignore[arg-type]
            else:
                numbers = self._wakeup[0].recv(4096)
                self._signals += len(numbers)
                self._is_replaced |= signal.SIGHUP in numbers
        for process in self._pool.processes:
            process.send_unsent()
        self._entrance.close_lingering(time.monotonic())
        if self._page:
            self._page.drop_slow(time.monotonic())
        self._reports.send(time.monotonic())

    def _read(self, process: Process, now: float) -> None:
        try:
            while (received := process.channel.receive()) is not None:
                self._entrance.handle(process, received[0], now)
        except EOFError:
            self._selector.unregister(process.channel)
            self._entrance.lost(process, now)
            self._pool.remove(process)
            if not self._signals:
                log.error("a worker process died", extra={"pid": process.pid})

    # Workers.

    def _start_missing_workers(self) -> None:
        for process in self._pool.start_missing(time.monotonic()):
            self._selector.register(process.channel, selectors.EVENT_READ, process)

    def _work(self, channel: Channel) -> None:
        """Be a worker: in a process of its own, which has a copy of all that is open here."""
        signal.set_wakeup_fd(-1)
        if self._page:
            self._page.abandon()
        self._selector.close()
        for each in (*self._listeners, *self._wakeup):
            each.close()
        worker.work(channel, self._piper_config, self._host_keys, self._lobby_keys)

    # The end.

    def _catch_signals(self) -> None:
        for end in self._wakeup:
            end.setblocking(False)
        self._selector.register(self._wakeup[0], selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wakeup[1].fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _ignore)

    def _stop_listening(self) -> None:
        for listener in self._listeners:
            self._selector.unregister(listener)
            listener.close()
        log.info("stopping: no longer listening", extra={"connections": self._entrance.connections})

    def _drain(self) -> None:
        """Let connections go on for a while, or until the second signal; then end them."""
        self._command_all({"command": "stop"})
        self._wait(DRAIN_SECONDS, while_signals=1)
        self._command_all({"command": "end all", "reason": _STOPPING})
        self._wait(_END_SECONDS, while_signals=99)
        self._pool.kill()
        log.info("stopped")

    def _command_all(self, message: dict[str, str]) -> None:
        for process in self._pool.processes:
            process.send(message)

    def _wait(self, seconds: float, while_signals: int) -> None:
        deadline = time.monotonic() + seconds
        while self._pool.processes and self._signals <= while_signals and time.monotonic() < deadline:
            self._step()


def _ignore(_number: int, _frame: object) -> None:
    """Each signal leaves a byte in the wakeup socket, also if two come at once."""


def _raised_descriptor_limit() -> int:
    """A login shell's soft limit is often 1024, which 500 logins fill."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _name(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
