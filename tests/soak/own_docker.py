"""A dockerd that may be restarted at will: in a network namespace of its own, over its own directories."""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000  # linux/sched.h; Python's own os.unshare is of 3.12


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and all that is started by it, in a new network namespace until the end of the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as before:
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "no network namespace of one's own")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        try:
            yield
        finally:
            libc.setns(before.fileno(), _CLONE_NEWNET)


class OwnDocker:
    """Keeps containers running while it is down, unless `live_restore` is switched off before the next
    start. DOCKER_HOST names it, here and in what is started after."""

    def __init__(self, image: str) -> None:
        self.live_restore = True
        self._directory = Path(tempfile.mkdtemp(prefix="gateway-storm-", dir="/var/lib"))
        self._others = os.environ.get("DOCKER_HOST")
        # Of the machine's own, which must be asked before DOCKER_HOST names another.
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saved:
            os.environ["DOCKER_HOST"] = f"unix://{self._directory}/docker.sock"
            self.start()
            subprocess.run(["docker", "load", "--quiet"], stdin=saved.stdout, check=True, capture_output=True)
        # Per network namespace; without it sessions would reach each other.
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")

    def start(self) -> None:
        command = ["dockerd", f"--live-restore={str(self.live_restore).lower()}"]
        command += ["-H", f"unix://{self._directory}/docker.sock"]
        for name in ("data-root", "exec-root"):
            command += [f"--{name}", str(self._directory / name)]
        command += ["--pidfile", str(self._directory / "docker.pid")]
        with open(self._directory / "log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "info"], capture_output=True).returncode:
            assert time.monotonic() < deadline, (self._directory / "log").read_text()[-2000:]
            time.sleep(0.1)

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
        del os.environ["DOCKER_HOST"]
        if self._others:
            os.environ["DOCKER_HOST"] = self._others
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (place := line.split()[1]).startswith(str(self._directory)):
                subprocess.run(["umount", "--lazy", place], check=False)
        containerd = self._directory / "exec-root/containerd/containerd.pid"
        if containerd.exists():
            os.kill(int(containerd.read_text()), signal.SIGTERM)
        shutil.rmtree(self._directory, ignore_errors=True)
