"""A server for tests: a privileged container with systemd as its first process and a Docker of its own."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import own
from tests.paths import REPOSITORY
from tests.whole_gateway import eventually

IMAGE = "gpu-gateway-systemd"
CHECKOUT = "/opt/gpu-ssh-gateway"


class Server:
    """The container that is the server."""

    def __init__(self) -> None:
        self.name = own.name("systemd")

    def start(self) -> None:
        options = ["--privileged", "--cgroupns=private", "--stop-signal=SIGRTMIN+3", "--env=container=docker"]
        options += [f"--tmpfs={path}:exec" for path in ("/run", "/run/lock", "/tmp")]
        options += ["--volume=/var/lib/docker", f"--name={self.name}", "--detach"]
        docker("run", *options, IMAGE)
        self.until_booted()

    def until_booted(self) -> None:
        eventually(lambda: self.succeeds("systemctl is-system-running"), seconds=60)

    def reboot(self) -> None:
        self.succeeds("systemctl reboot")
        docker("wait", self.name)
        docker("start", self.name)
        self.until_booted()

    def run(self, script: str) -> str:
        done = subprocess.run(
            ["docker", "exec", "--interactive", self.name, "bash", "-e"],
            input=script, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def feed(self, source: str, target: str) -> None:
        """Pipe the output of a command here into a command there."""
        pipe = f"{source} | docker exec --interactive {self.name} {target}"
        subprocess.run(pipe, shell=True, check=True, cwd=REPOSITORY, capture_output=True)

    def succeeds(self, command: str) -> bool:
        return not subprocess.run(
            ["docker", "exec", self.name, "sh", "-c", command], capture_output=True
        ).returncode

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        data = f"--data '{json.dumps(body)}' --header 'Content-Type: application/json'" if body else ""
        answer = self.run(
            f"curl --silent --show-error --fail-with-body -X {method} {data} localhost:8080{path}"
        )
        parsed: dict[str, Any] = json.loads(answer) if answer else {}
        return parsed

    def is_ready(self) -> bool:
        return self.succeeds("curl --silent --fail localhost:8080/readyz")

    def has_entry_point(self) -> bool:
        return self.succeeds("ssh-keyscan 127.0.0.1 2>/dev/null | grep -q .")

    def open_session(self) -> dict[str, Any]:
        key = self.run("cat /root/key.pub").strip()
        return self.ask("POST", "/sessions", {"user_id": "user123", "ssh_public_keys": [key]})

    def in_session(self, command: str) -> str:
        options = "-n -i /root/key -o BatchMode=yes -o StrictHostKeyChecking=accept-new"
        return self.run(f"ssh {options} user123@localhost '{command}'").strip()


def docker(*arguments: str) -> None:
    subprocess.run(["docker", *arguments], check=True, capture_output=True)


@contextmanager
def running(*images: str) -> Iterator[Server]:
    """A server with these images of the machine and this checkout. Skips the test if an image is missing."""
    for image in (IMAGE, *images):
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode:
            pytest.skip(f"no image {image} here: `make systemd` builds it")
    server = Server()
    try:
        server.start()
        server.feed("git ls-files -z | tar --create --null --files-from=-", f"tar -x -C {CHECKOUT}")
        server.feed(f"docker save {' '.join(images)}", "docker load --quiet")
        server.run("ssh-keygen -q -t ed25519 -N '' -f /root/key")
        yield server
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", server.name], capture_output=True)
