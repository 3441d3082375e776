"""A dockerd that may be restarted at will: in this process's network namespace, over its own directories."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path


class OwnDocker:
    """Keeps containers running while it is down. DOCKER_HOST names it, here and in what is started after."""

    def __init__(self, image: str) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="gateway-storm-", dir="/var/lib"))
        saved = subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE)  # of the machine's own
        os.environ["DOCKER_HOST"] = f"unix://{self._directory}/docker.sock"
        self.start()
        subprocess.run(["docker", "load", "--quiet"], stdin=saved.stdout, check=True, capture_output=True)
        saved.wait(timeout=60)
        # Per network namespace; without it sessions would reach each other.
        Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text("1")

    def start(self) -> None:
        command = ["dockerd", "--live-restore", "-H", os.environ["DOCKER_HOST"]]
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
        """Ended by signal `number`: its containers go on without it."""
        self._process.send_signal(number)
        self._process.wait(timeout=60)
        self.start()

    def end(self) -> None:
        """Its containers are gone by now."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (place := line.split()[1]).startswith(str(self._directory)):
                subprocess.run(["umount", "--lazy", place], check=False)
        containerd = self._directory / "exec-root/containerd/containerd.pid"
        if containerd.exists():
            os.kill(int(containerd.read_text()), signal.SIGTERM)
        shutil.rmtree(self._directory, ignore_errors=True)
