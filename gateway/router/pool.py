"""The worker processes: started, counted, and started again when one has died."""

import gc
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from gateway.router.channel import Channel, Message

log = logging.getLogger(__name__)

_RESTART_SECONDS = 1


@dataclass(slots=True, eq=False)
class Process:
    """A worker as the supervisor sees it: its connections by their numbers."""

    pid: int
    channel: Channel
    connections: set[int] = field(default_factory=set)
    logins: set[int] = field(default_factory=set)

    @property
    def descriptors(self) -> int:
        """Open sockets: each login has one more, to its session."""
        return len(self.connections) + len(self.logins)

    def send(self, message: Message) -> None:
        with suppress(OSError):  # it is gone; its end is noticed where it is read
            self.channel.send(message)

    def send_unsent(self) -> None:
        with suppress(OSError):
            self.channel.send_unsent()


class Pool:
    """`work` is what a worker does with its channel until its end."""

    def __init__(self, size: int, work: Callable[[Channel], None]) -> None:
        self.processes: list[Process] = []
        self._size = size
        self._work = work
        self._next_start = 0.0

    def start_missing(self, now: float) -> Iterator[Process]:
        """Start what is missing; a worker that dies at once is not started more than once a second."""
        if len(self.processes) < self._size and now >= self._next_start:
            if self.processes or self._next_start:
                self._next_start = now + _RESTART_SECONDS
            while len(self.processes) < self._size:
                yield self._start()

    def least_loaded(self) -> Process | None:
        return min(self.processes, key=lambda each: each.descriptors, default=None)

    def remove(self, process: Process) -> None:
        """Forget a worker whose channel is closed, and reap it."""
        self.processes.remove(process)
        process.channel.close()
        os.waitpid(process.pid, 0)

    def kill(self) -> None:
        for process in self.processes:
            os.kill(process.pid, signal.SIGKILL)

    def _start(self) -> Process:
        ours, theirs = Channel.pair()
        gc.freeze()  # so that workers share the memory of what is loaded by now
        pid = os.fork()
        if pid == 0:
            self._become_worker(ours, theirs)
        theirs.close()
        process = Process(pid, ours)
        self.processes.append(process)
        return process

    def _become_worker(self, ours: Channel, theirs: Channel) -> None:
        status = 1
        try:
            ours.close()
            for process in self.processes:
                process.channel.close()
            self._work(theirs)
            status = 0
        except Exception:
            log.exception("a worker failed")
        finally:
            os._exit(status)
