"""A cluster of fake nodes behind replicas of the gateway; each part is a process of its own.

The kubelets of all fake nodes are one process. Nodes without a machine run no sshd, so the replicas find a
program `ssh` that answers for it.
"""

import ipaddress
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import requests

from gateway.database_url import DatabaseUrl
from gateway.repositories.sql import schema
from tests.fleet.api import Api
from tests.fleet.claims import PODS
from tests.fleet.control_plane import ADMIN, ControlPlane
from tests.fleet.gateways import Replica
from tests.fleet.in_process import STORAGE
from tests.fleet.nodes import Fakelet
from tests.postgresql import PostgresServer
from tests.whole_gateway import eventually

MEMORY_PER_SLICE = 16  # GiB
POD_ADDRESSES = ipaddress.ip_network("100.64.0.0/10")
_RESERVED = 1 << 20  # the first addresses are for sessions that are there from the beginning
_SECONDS = 600  # until a replica has reconciled thousands of sessions
_WATCH_SECONDS = 3600
_SSH = """#!/bin/sh
# An unused session's answers to the gateway's scripts.
for last; do :; done
case $last in
*" activity"*) echo 1 none 0 ;;
*" hook"*) echo none ;;
*" tell"* | *" signal"* | *" disconnect"*) echo 0 ;;
esac
"""


@dataclass(frozen=True)
class Account:
    """How a process calls the API as the administrator."""

    url: str
    authority: str
    token: str

    @classmethod
    def of(cls, plane: ControlPlane) -> "Account":
        return cls(plane.url, str(plane.authority), plane.token_of(ADMIN))

    def api(self) -> Api:
        return Api(self.url, self.authority, self.token)


@contextmanager
def fakelet(plane: ControlPlane) -> Iterator[None]:
    """The control plane must not expect heartbeats."""
    process = multiprocessing.get_context("spawn").Process(target=_fakelet, args=(Account.of(plane),))
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def _fakelet(account: Account) -> None:
    addresses = map(
        str, map(POD_ADDRESSES.network_address.__add__, range(_RESERVED, POD_ADDRESSES.num_addresses))
    )
    with Fakelet(account.api(), addresses=addresses, beats=False, watch_seconds=_WATCH_SECONDS):
        threading.Event().wait()


@dataclass
class Bound:
    """When each pod got its node, by its name, on the clock of this process."""

    api: Api
    at: dict[str, float] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def start(self) -> None:
        """Return once the pods that exist are known."""
        threading.Thread(target=self._follow, daemon=True).start()
        name = f"first-{os.getpid()}"
        container = {"name": "c", "image": "none"}
        self.api.create(
            PODS, {"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [container]}}
        )
        self.moment(name)
        self.api.delete(PODS, name, "default", grace=0)

    def moment(self, name: str) -> float:
        """Wait for the pod's node and return when it got it."""
        with self.changed:
            assert self.changed.wait_for(lambda: name in self.at, _SECONDS), f"{name} got no node"
            return self.at[name]

    def _follow(self) -> None:
        with suppress(requests.RequestException):  # the end of the control plane
            self._note()

    def _note(self) -> None:
        for _, pod in self.api.watch(PODS, _WATCH_SECONDS):
            now, name = time.monotonic(), pod["metadata"]["name"]
            if pod["spec"].get("nodeName") and name not in self.at:
                with self.changed:
                    self.at[name] = now
                    self.changed.notify_all()


@dataclass
class FakeNodesReplica(Replica):
    """A `gateway serve` whose sessions are on fake nodes."""

    @property
    def environment(self) -> dict[str, str]:
        ours = super().environment
        return ours | {
            "GATEWAY_STORAGE_CLASS": STORAGE,
            "GATEWAY_MEMORY_PER_SLICE": f"{MEMORY_PER_SLICE}g",
            "GATEWAY_LEASE_SERVICE": "gpu-gateway/gateway",
            "PATH": f"{self.directory}/bin:{ours['PATH']}",
            **self.settings,
        }

    def write_ssh(self) -> None:
        program = self.directory / "bin/ssh"
        program.parent.mkdir()
        program.write_text(_SSH)
        program.chmod(0o755)

    def has_reconciled(self) -> bool:
        """Whether it leads and has compared everything once."""
        answer = requests.get(f"{self.url}/metrics", timeout=60)
        return "gpu_gateway_reaper_tick_timestamp_seconds " in answer.text


def add_service(api: Api) -> str:
    """The gateway's Service; return its URL."""
    ports = [{"name": "http", "port": 80}]
    metadata = {"name": "gateway", "namespace": "gpu-gateway"}
    made = api.create("v1/services", {"metadata": metadata, "spec": {"ports": ports}})
    return f"http://{made['spec']['clusterIP']}:80"


@dataclass(frozen=True)
class Database:
    server: PostgresServer
    url: str


@contextmanager
def database() -> Iterator[Database]:
    server = PostgresServer()
    try:
        url = server.create()
        schema.upgrade(DatabaseUrl(url))
        yield Database(server, url)
    finally:
        server.end()


@contextmanager
def replicas(plane: ControlPlane, at: Database, directory: Path) -> Iterator[list[FakeNodesReplica]]:
    """Two of them, once both answer and one has reconciled."""
    made: list[FakeNodesReplica] = []
    with ExitStack() as stack:
        for number in range(2):
            own = directory / f"replica-{number}"
            own.mkdir()
            each = FakeNodesReplica(
                own,
                plane=plane,
                postgresql=at.server,
                database=at.url,
                warm=None,
                start_seconds=_SECONDS,  # it reads the slices of all nodes
            )
            each.write_ssh()
            stack.callback(_kill_all, each)
            each.serve()
            made.append(each)
        eventually(lambda: any(each.has_reconciled() for each in made), _SECONDS)
        yield made


def _kill_all(each: FakeNodesReplica) -> None:
    for name in list(each.processes):
        each.kill(name)
