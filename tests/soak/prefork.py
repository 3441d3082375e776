"""`gateway serve` by fork from a process that has loaded everything: a sweep starts dozens of them.

`python -m tests.soak.prefork` starts one for each line of JSON on its input, [environment, log file],
and answers with the process's id. Each leads a process group of its own.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import gateway.app  # noqa: F401
from gateway.logs import log_to_stderr
from gateway.server import Server
from gateway.settings import Settings
from tests.e2e.conftest import REPOSITORY, Gateway


@dataclass
class Forked:
    """As much of a Popen as `Gateway` uses."""

    pid: int

    def poll(self) -> int | None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return -1
        return None

    def wait(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("gateway serve", timeout)
            time.sleep(0.005)


@dataclass
class PreforkedGateway(Gateway):
    """Serves within moments."""

    _parent: subprocess.Popen[str] | None = None

    def serve(self, failpoints: str = "") -> None:
        self.serve_unready(failpoints)
        self.until_ready()

    def serve_unready(self, failpoints: str = "") -> None:
        if self._parent is None:
            command = [sys.executable, "-m", "tests.soak.prefork"]
            self._parent = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
            )
        assert self._parent.stdin
        assert self._parent.stdout
        environment = self.environment | {"GATEWAY_FAILPOINTS": failpoints}
        print(
            json.dumps([environment, str(self.directory / "serve.log")]),
            file=self._parent.stdin,
            flush=True,
        )
        self.processes["serve"] = Forked(int(self._parent.stdout.readline()))  # type: ignore[assignment]

    def end(self) -> None:
        for name in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                self.kill(name)
        if self._parent:
            self._parent.communicate(timeout=30)


def _serve(environment: dict[str, str], log: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(environment)
    settings = Settings.load(os.environ)
    log_to_stderr(settings.log_format)
    Server(settings).run()


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the children
    for line in sys.stdin:
        environment, log = json.loads(line)
        if not (pid := os.fork()):
            _serve(environment, Path(log))
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
