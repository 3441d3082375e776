"""The `gateway` command by fork from a process that has loaded everything: suites run it hundreds of times.

`main` is that process. For each line of JSON on its input it runs a command, and prints `NUMBER started PID`,
then `NUMBER ended STATUS`. Each command leads a process group of its own.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import gateway
import gateway.cli
from tests.paths import REPOSITORY


class Process(Protocol):
    """As much of a Popen as the suites use."""

    pid: int

    def poll(self) -> int | None: ...
    def wait(self, timeout: float) -> int: ...


class Command:
    """A command that runs or has ended."""

    def __init__(self) -> None:
        self.pid = 0
        self.started, self._ended = threading.Event(), threading.Event()
        self._status = 0

    def poll(self) -> int | None:
        return self._status if self._ended.is_set() else None

    def wait(self, timeout: float) -> int:
        """The exit status, or minus the number of the signal that killed it."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("gateway", timeout)
        return self._status

    def heard(self, what: str, value: int) -> None:
        if what == "started":
            self.pid = value
            self.started.set()
        else:
            self._status = value
            self._ended.set()


class Warm:
    """Starts commands in the network namespace that it was made in."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests import warm; warm.main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        self._commands: list[Command] = []
        self._one_at_a_time = threading.Lock()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], *output: Path) -> Command:
        """`output` is the file for all that it prints, or one for stdout and one for stderr; added to."""
        command = Command()
        job: dict[str, Any] = {
            "arguments": arguments,
            "environment": dict(environment),
            "output": str(output[0]),
            "errors": str(output[-1]),
        }
        with self._one_at_a_time:
            job["number"] = len(self._commands)
            self._commands.append(command)
            print(json.dumps(job), file=self._process.stdin, flush=True)
        assert command.started.wait(30)
        return command

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as directory:
            output, errors = Path(directory, "output"), Path(directory, "errors")
            status = self.start(arguments, environment, output, errors).wait(timeout)
            return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())

    def end(self) -> None:
        """Commands that run go on, and nobody hears of them any more."""
        assert self._process.stdin
        self._process.stdin.close()
        self._listener.join()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            for line in lines:
                number, what, value = line.split()
                self._commands[int(number)].heard(what, int(value))


@contextmanager
def own_warm() -> Iterator[Warm]:
    """For a network namespace of one's own."""
    warm = Warm()
    try:
        yield warm
    finally:
        warm.end()


@cache
def warm() -> Warm:
    """That of this test process."""
    warm = Warm()
    atexit.register(warm.end)
    return warm


def main() -> None:
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        importlib.import_module(module.name)
    gc.freeze()
    numbers: dict[int, int] = {}

    def bury(*_: object) -> None:
        with suppress(ChildProcessError):
            while (child := os.waitpid(-1, os.WNOHANG))[0]:
                _say(numbers.pop(child[0]), "ended", os.waitstatus_to_exitcode(child[1]))

    signal.signal(signal.SIGCHLD, bury)
    for line in sys.stdin:
        job = json.loads(line)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])  # until its number is known
        if not (pid := os.fork()):
            _run(**job)
        numbers[pid] = job["number"]
        _say(job["number"], "started", pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


def _say(number: int, what: str, value: int) -> None:
    os.write(1, f"{number} {what} {value}\n".encode())  # a signal handler must not use the buffer of stdout


def _run(number: int, arguments: list[str], environment: dict[str, str], output: str, errors: str) -> None:
    """In the child, which ends here."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["gateway", *arguments]
    try:
        gateway.cli.main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)  # cleaning up all modules takes a second
    raise AssertionError("the command returned")
