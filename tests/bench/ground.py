"""What the measurements stand on: a gateway of their own, and Docker alone running the same container."""

import fcntl
import http.client
import json
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any, TypeVar

from gateway.domain.plan import SSH_PORT
from gateway.repositories.docker import labels
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.network import Worknet
from tests.whole_gateway import Gateway, take_away

NETWORK, SUBNET = "gwbench", "10.216.0.0/20"
NOT_THE_GATEWAYS = "gwbench-baseline"  # as the label that tells whose a container is
GPUS = "4xA100-40GB"  # 28 of the smallest slices
AT_ONCE = 20
USER = "gwbench"  # containers are named after users, and one name is one container on a machine

T = TypeVar("T")
R = TypeVar("R")

_POLL_SECONDS = 0.002
_COPIED = ("User", "Env", "Cmd", "Entrypoint", "WorkingDir", "Hostname", "Image", "Labels")


class BenchGateway(Gateway):
    @property
    def environment(self) -> dict[str, str]:
        own = {"GATEWAY_NETWORK": NETWORK, "GATEWAY_SUBNET": SUBNET, "PYTHONPATH": str(self.without)}
        return super().environment | own

    @property
    def without(self) -> Path:
        """A directory that hides what only the tests install. Docker's SDK would load paramiko, 6 MB."""
        return self.directory / "without"

    @property
    def database(self) -> Path:
        return self.directory / "state/sessions.db"

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """Without the overhead of a client that would count as the gateway's."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def open(self, user_id: str, public_key: str) -> str:
        """The id of the user's new session."""
        status, text = self.request(
            "POST", "/sessions", {"user_id": user_id, "ssh_public_keys": [public_key]}
        )
        assert status == 201, text
        session_id: str = json.loads(text)["session_id"]
        return session_id

    def close(self, session_id: str) -> None:
        status, text = self.request("DELETE", f"/sessions/{session_id}")
        assert status == 204, text

    def row(self, session_id: str) -> dict[str, Any]:
        with sqlite3.connect(self.database) as database:
            database.row_factory = sqlite3.Row
            return dict(database.execute("SELECT * FROM sessions WHERE id = ?", (session_id,)).fetchone())


@contextmanager
def gateway(*, before: Callable[[BenchGateway], None] | None = None) -> Iterator[BenchGateway]:
    """A gateway that serves; `before` is called when its database is there."""
    directory = Path(tempfile.mkdtemp(prefix="gateway-bench-"))
    made = BenchGateway(directory, GPUS, warm=None)
    made.without.mkdir()
    (made.without / "paramiko.py").write_text("raise ImportError\n")
    try:
        migrated = made.run("migrate")
        assert migrated.returncode == 0, migrated.stderr
        if before:
            before(made)
        made.serve()
        yield made
    finally:
        with ExitStack() as each:  # one that fails does not keep the others from being done
            each.callback(shutil.rmtree, directory, ignore_errors=True)
            each.callback(Worknet(Docker(), NETWORK, SUBNET).remove)
            each.callback(take_away, made)


@contextmanager
def alone() -> Iterator[None]:
    """One bench at a time on a machine: two would share the network, where the gateway of the one takes
    the sessions of the other for orphans, and each would slow the other down."""
    with open(Path(tempfile.gettempdir()) / f"{NETWORK}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another bench on this machine to end", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class DockerAlone:
    """The Docker SDK running what `inspect` shows of a gateway's container: image, user, mounts, limits,
    hardening, network. Only name, address and the label that tells whose it is are others."""

    api: Any
    config: dict[str, Any]

    @classmethod
    def like(cls, gateway: BenchGateway, public_key: str) -> "DockerAlone":
        session_id = gateway.open(USER, public_key)
        api = Docker().client.api
        found = api.inspect_container(gateway.row(session_id)["container_id"])
        kept = shutil.copytree(
            gateway.directory / "state/sessions" / session_id,
            gateway.directory / "same-files",
            dirs_exist_ok=True,
        )
        key = Path(kept) / "etc/ssh_host_ed25519_key"
        uid = int(found["Config"]["User"].partition(":")[0])
        shutil.chown(key, uid, uid)
        gateway.close(session_id)
        text = json.dumps(
            {name: found["Config"][name] for name in _COPIED} | {"HostConfig": found["HostConfig"]}
        )
        config = json.loads(text.replace(f"state/sessions/{session_id}", "same-files"))
        config["Labels"][labels.NETWORK] = NOT_THE_GATEWAYS
        return cls(api, config)

    def run(self, number: int) -> str:
        """Create, start, wait for sshd's banner; the container's id."""
        address = f"10.216.8.{number + 1}"
        endpoint = {"IPAMConfig": {"IPv4Address": address}}
        config = {**self.config, "NetworkingConfig": {"EndpointsConfig": {NETWORK: endpoint}}}
        container_id: str = self.api.create_container_from_config(config, f"gwbench-{number}")["Id"]
        self.api.start(container_id)
        while not _sends_banner(address):
            time.sleep(_POLL_SECONDS)
        return container_id

    def remove(self, container_id: str) -> None:
        self.api.remove_container(container_id, v=True, force=True)

    def difference(self, container_id: str, other_id: str) -> list[str]:
        """The settings in which two containers are not the same, apart from what has to differ."""
        one, other = (self.api.inspect_container(each) for each in (container_id, other_id))
        parts = [("Config", name) for name in _COPIED] + [("HostConfig", name) for name in one["HostConfig"]]
        own = {("Config", "Labels"), ("Config", "Env"), ("Config", "Hostname"), ("Config", "WorkingDir")}
        own |= {("Config", "User"), ("HostConfig", "Mounts")}
        return [
            f"{part}.{name}"
            for part, name in parts
            if (part, name) not in own and one[part][name] != other[part][name]
        ]


def _sends_banner(address: str) -> bool:
    try:
        with socket.create_connection((address, SSH_PORT), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def at_once(work: Callable[[T], R], items: Sequence[T]) -> tuple[float, list[R]]:
    """How long it took until the last was done, and what came of each."""
    ready = Barrier(len(items) + 1)

    def one(item: T) -> R:
        ready.wait()
        return work(item)

    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(one, item) for item in items]
        ready.wait()
        began = time.perf_counter()
        results = [future.result() for future in futures]
        return time.perf_counter() - began, results
