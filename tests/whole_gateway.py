"""A whole gateway: its own processes, real Docker, real sshd, the stock ssh; only the GPUs are simulated."""

import os
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import requests

from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.egress import Egress
from gateway.repositories.docker.network import Worknet
from tests import own
from tests.paths import BIN, REPOSITORY
from tests.warm import Process, Warm, warm

NETWORK, SUBNET = own.name("e2e"), own.subnet(215)


def eventually(what: Callable[[], Any], seconds: float = 15) -> Any:
    """`what()` once it is true; fails when it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return result


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Gateway:
    """Processes of a gateway over `directory`; started and killed as a test likes. `settings` are
    environment variables, which count from the next start on. Commands are forks of `warm`; without one each
    is started as an administrator would."""

    directory: Path
    gpus: str = "2xA100-40GB"
    port: int = field(default_factory=free_port)
    ssh_port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)
    warm: Warm | None = field(default_factory=warm)
    start_seconds: float = 60  # until it is ready

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        others = {name: text for name, text in os.environ.items() if not name.startswith("GATEWAY_")}
        return others | {
            "GATEWAY_SETTINGS": os.devnull,
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_URL": self.url,
            "GATEWAY_DB": str(self.directory / "state/sessions.db"),
            "GATEWAY_PIPER_CONFIG": str(self.directory / "sshpiper/pipe.yaml"),
            "GATEWAY_WORKSPACE_ROOT": str(self.directory / "workspaces"),
            "GATEWAY_NETWORK": NETWORK,
            "GATEWAY_SUBNET": SUBNET,
            "GATEWAY_SSH_HOST": "127.0.0.1",
            "GATEWAY_SSH_PORT": str(self.ssh_port),
            "GATEWAY_SIMULATE_GPUS": self.gpus,
            "GATEWAY_SESSION_MEMORY": "512m",
            "GATEWAY_SESSION_TMP": "64m",
            "GATEWAY_SESSION_SHM": "64m",
            "GATEWAY_ROUTER_LISTEN": f"127.0.0.1:{self.ssh_port}",
            **self.settings,
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment | environment
        if self.warm:
            return self.warm.run(arguments, environment, timeout=180)
        return subprocess.run(
            [BIN / "gateway", *arguments], env=environment, capture_output=True, text=True, timeout=180
        )

    def start(self, name: str, *command: str | Path, **environment: str) -> None:
        """`gateway NAME`, or `command` under that name."""
        before = self.processes.get(name)
        assert before is None or before.poll() is not None, f"{name} runs already: the first would be left"
        environment = self.environment | environment
        log = self.directory / f"{name}.log"
        if self.warm and not command:
            self.processes[name] = self.warm.start([name], environment, log)
            return
        with open(log, "ab") as output:
            self.processes[name] = subprocess.Popen(
                command or [BIN / "gateway", name],
                env=environment,
                cwd=REPOSITORY,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def serve(self, **environment: str) -> None:
        self.start("serve", **environment)
        self.until_ready()

    def until_ready(self) -> None:
        def ready() -> bool:
            assert self.processes["serve"].poll() is None, self.log("serve")
            try:
                return requests.get(f"{self.url}/readyz", timeout=20).ok
            except (requests.ConnectionError, requests.Timeout):
                return False

        eventually(ready, self.start_seconds)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """The whole process group, as a crash of the machine's out-of-memory killer would not spare."""
        process = self.processes.pop(name)
        with suppress(ProcessLookupError):  # it has ended already
            os.killpg(process.pid, number)
        process.wait(timeout=30)

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def create(self, user_id: str, **body: Any) -> dict[str, Any]:
        assert own.is_user(user_id), f"other tests may have a {user_id}: take own.user({user_id!r})"
        answer = requests.post(f"{self.url}/sessions", json={"user_id": user_id, **body}, timeout=60)
        assert answer.status_code == 201, answer.text
        session: dict[str, Any] = answer.json()
        if "ssh_private_key" in session:
            self.keep_key(user_id, session)
        return session

    def wait_in_line(self, user_id: str, **body: Any) -> dict[str, Any]:
        """The user gets a place in line, for at most four hours, and a key that the gateway makes."""
        body |= {"user_id": user_id, "wait_minutes": 240}
        answer = requests.post(f"{self.url}/sessions", json=body, timeout=60)
        assert answer.status_code == 202, answer.text
        request: dict[str, Any] = answer.json()
        self.keep_key(user_id, request)
        return request

    def keep_key(self, user_id: str, answer: dict[str, Any]) -> None:
        """Keep the private key and the known_hosts line of an answer for `ssh`."""
        key = self.directory / f"{user_id}.key"
        key.unlink(missing_ok=True)
        key.touch(mode=0o600)
        key.write_text(answer["ssh_private_key"])
        known = self.directory / f"{user_id}.known_hosts"
        known.write_text(answer["ssh_known_hosts"] + "\n")

    def delete(self, session_id: str) -> requests.Response:
        return requests.delete(f"{self.url}/sessions/{session_id}", timeout=60)

    def get(self, path: str) -> Any:
        return requests.get(self.url + path, timeout=30).json()

    def ssh(self, user_id: str, *command: str, options: tuple[str, ...] = ()) -> list[str]:
        """The command line of the stock client, with the key and the known_hosts line of `create`."""
        return [
            "ssh",
            "-F", "none",
            "-i", str(self.directory / f"{user_id}.key"),
            "-o", "IdentitiesOnly=yes",
            "-o", f"UserKnownHostsFile={self.directory / f'{user_id}.known_hosts'}",
            "-o", "StrictHostKeyChecking=yes",
            "-o", "BatchMode=yes",
            "-o", "ConnectTimeout=10",
            "-p", str(self.ssh_port),
            *options,
            f"{user_id}@127.0.0.1",
            *command,
        ]  # fmt: skip

    def in_session(self, user_id: str, command: str) -> str:
        done = subprocess.run(self.ssh(user_id, command), capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr + self.log("router")
        return done.stdout

    def refused(self, user_id: str) -> bool:
        done = subprocess.run(self.ssh(user_id, "true"), capture_output=True, timeout=30)
        return done.returncode == 255

    def expire(self, session_id: str, seconds: float = 0) -> None:
        """The lease ends in so many seconds, so that no test waits a minute for it."""
        with sqlite3.connect(self.directory / "state/sessions.db") as database:
            end = datetime.now(UTC) + timedelta(seconds=seconds)
            database.execute(
                "UPDATE sessions SET boot = NULL, expires_at = ? WHERE id = ?",
                (f"{end:%Y-%m-%d %H:%M:%S}.000000", session_id),
            )

    def leftovers(self, session_id: str) -> list[str]:
        """Where anything of the session is still to be found."""
        docker = Docker().client
        places = {
            "docker": docker.api.containers(all=True, filters={"label": f"{labels.SESSION}={session_id}"}),
            "pipes": session_id in (self.directory / "sshpiper/pipe.yaml").read_text(),
            "gpus": [
                i for g in self.get("/gpus")["gpus"] for i in g["instances"] if i["session_id"] == session_id
            ],
            "rows": [s for s in self.get("/sessions")["sessions"] if s["session_id"] == session_id],
            "files": (self.directory / "state/sessions" / session_id).exists(),
        }
        return [place for place, found in places.items() if found]


@contextmanager
def running(gateway: Gateway) -> Iterator[Gateway]:
    """Serving, with the embedded router before it; in the end all processes and containers are gone."""
    try:
        assert gateway.run("migrate").returncode == 0
        gateway.start("router")
        gateway.serve()
        eventually(lambda: (gateway.directory / "sshpiper/ssh_host_ed25519_key.pub").exists())
        yield gateway
    finally:
        take_away(gateway)


def take_away(gateway: Gateway) -> None:
    """Its processes and containers; other gateways' containers stay."""
    for name in list(gateway.processes):
        gateway.kill(name)
    docker = Docker().client
    for container in docker.containers.list(all=True, ignore_removed=True, filters={"label": labels.SESSION}):
        if any(mount["Source"].startswith(str(gateway.directory)) for mount in container.attrs["Mounts"]):
            container.remove(force=True)


def take_network_away(name: str, subnet: str) -> None:
    """With what a killed run has left on it: nobody else has a network of this name."""
    docker = Docker()
    for container in docker.client.containers.list(
        all=True, ignore_removed=True, filters={"label": f"{labels.NETWORK}={name}"}
    ):
        container.remove(force=True)
    Egress(docker, name, subnet, (), Path("/nowhere")).remove()
    Worknet(docker, name, subnet).remove()
