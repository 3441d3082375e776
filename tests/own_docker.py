"""A Docker daemon of the tests' own: in a network namespace and over directories of its own.

The machine's daemon, its bridge and its rules are left alone, and this one may be killed and restarted.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import own

_SHELL_ALONE = r"""
printf '#!/bin/sh\n[ "$1" != -D ] || exec sleep 600\n' > /usr/sbin/sshd && chmod 755 /usr/sbin/sshd
programs="/bin/sh /usr/bin/sleep /usr/sbin/sshd"
tar --create --dereference $programs $(ldd $programs | grep -o '/lib[^ ]*' | sort -u)
"""
_CLONE_NEWNET = 0x40000000  # linux/sched.h; Python's own os.unshare is of 3.12


@contextmanager
def own_docker(*arguments: str, **environment: str) -> Iterator["OwnDocker"]:
    """Until the end of the block this thread, and all that it starts, is in the daemon's network namespace,
    and DOCKER_HOST names the daemon. `arguments` and `environment` are added to the daemon's own."""
    docker = OwnDocker(arguments, environment)
    with own_network(), pytest.MonkeyPatch.context() as patch:
        try:
            docker.start()
            patch.setenv("DOCKER_HOST", docker.address)
            yield docker
        finally:
            docker.end()


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and all that is started by it, in a new network namespace until the end of the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as before:
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot make a network namespace")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        try:
            yield
        finally:
            libc.setns(before.fileno(), _CLONE_NEWNET)


class OwnDocker:
    """Keeps containers running while it is down, unless `live_restore` is switched off before the next
    start."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.live_restore = True
        self._arguments = arguments
        self._environment = os.environ | environment
        self._directory = Path(tempfile.mkdtemp(prefix="gateway-tests-docker-", dir="/var/lib"))

    @property
    def address(self) -> str:
        return f"unix://{self._directory}/docker.sock"

    def start(self) -> None:
        command = ["dockerd", f"--host={self.address}", f"--pidfile={self._directory}/docker.pid"]
        command += [f"--live-restore={str(self.live_restore).lower()}"]
        command += [f"--{name}={self._directory}/{name}" for name in ("data-root", "exec-root")]
        # A containerd that the machine runs is shared: what is this daemon's is told by the namespace.
        command += [
            f"--containerd-namespace={own.name('')}",
            f"--containerd-plugins-namespace={own.name('p')}",
            *self._arguments,
        ]
        with open(self._directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=self._environment
            )
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "--host", self.address, "info"], capture_output=True).returncode:
            assert time.monotonic() < deadline, (self._directory / "log").read_text()[-2000:]
            time.sleep(0.1)
        # Per network namespace; without it sessions would reach each other.
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")

    def load(self, image: str) -> None:
        """Copy an image from the machine's daemon."""
        self._pipe(["docker", "save", image], "load", "--quiet")

    def load_shell(self, image: str, source: str) -> None:
        """As `image`, the shell of the machine's image `source` and an sshd that only stays: a hundredth of
        the size."""
        command = ["docker", "run", "--rm", "--network=none", source, "sh", "-c", _SHELL_ALONE]
        self._pipe(command, "import", "-", image)

    def _pipe(self, command: list[str], *into: str) -> None:
        """The output of `command` into this daemon."""
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, env=self._environment) as source:
            docker = ["docker", "--host", self.address, *into]
            subprocess.run(docker, stdin=source.stdout, check=True, capture_output=True)

    def restart(self, number: int) -> None:
        """Ended by signal `number`."""
        self.stop(number)
        self.start()

    def stop(self, number: int) -> None:
        self._process.send_signal(number)
        self._process.wait(timeout=60)

    def end(self) -> None:
        """Its containers are gone by now."""
        self.stop(signal.SIGTERM)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (place := line.split()[1]).startswith(str(self._directory)):
                subprocess.run(["umount", "--lazy", place], check=False)
        containerd = self._directory / "exec-root/containerd/containerd.pid"
        if containerd.exists():
            os.kill(int(containerd.read_text()), signal.SIGTERM)
        shutil.rmtree(self._directory, ignore_errors=True)
