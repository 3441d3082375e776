"""Gateways in the process of the tests, on a real control plane."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.app import Gateway, Parts, assemble
from gateway.app.cluster import notices_over, parts_over
from gateway.database_url import DatabaseUrl
from gateway.domain import clock
from gateway.domain.uids import UidRange
from gateway.repositories.kubernetes import api as kubernetes_api
from gateway.repositories.kubernetes.cluster import ClusterHost
from gateway.repositories.kubernetes.logins import Login, Logins, NotReachable
from gateway.repositories.kubernetes.objects import Site
from gateway.repositories.kubernetes.pipes import ClusterPipes
from gateway.repositories.sql.advisory import AdvisoryLocks
from gateway.repositories.sql.database import SqlDatabase
from gateway.repositories.sql.leadership import DatabaseLeadership
from gateway.settings import Settings
from tests.fakes.cluster_host import SITE
from tests.fleet.api import Api, Object, Refused
from tests.fleet.control_plane import ControlPlane
from tests.fleet.gateways import PIPES, apply
from tests.fleet.nodes import add_device_classes, add_node, gpus_of_a_node, remove_node, suppress_existing
from tests.whole_gateway import eventually

NODE = "fake-1"
STORAGE = "directories"  # a StorageClass
_NUMBERS = count(1)
_SECONDS = 60  # of patience with a loaded machine


@dataclass(frozen=True)
class NoSshd:
    """Fake nodes run no sshd. A login to a pod that runs prints what an unused session prints."""

    plane: ControlPlane
    namespace: str

    def run(self, login: Login, command: Sequence[str]) -> str:
        pod = self._pod(login.address)
        if list(command) == ["nvidia-smi", "-L"]:
            return self._listing(pod["metadata"]["name"])
        return _ANSWERS.get(command[3] if len(command) > 3 else "", "")

    def _pod(self, address: str) -> Object:
        try:
            pods = self.plane.api().list("v1/pods", self.namespace)
        except requests.ConnectionError as error:
            raise NotReachable(f"The network of the cluster is away: {error}") from error
        for pod in pods:
            status = pod.get("status") or {}
            if status.get("podIP") == address and status["phase"] == "Running":
                return pod
        raise NotReachable(f"No sshd answers at {address}.")

    def _listing(self, name: str) -> str:
        """The slice has another UUID for each claim."""
        claim = self.plane.api().get("resource.k8s.io/v1/resourceclaims", name, self.namespace)
        assert claim, f"the pod {name} runs without its claim"
        [result] = claim["status"]["allocation"]["devices"]["results"]
        slice_id = f"MIG-{claim['metadata']['uid']}"
        return f"GPU 0: (UUID: GPU-0)\n  MIG {result['device']} Device 0: (UUID: {slice_id})\n"


_ANSWERS = {"tell": "0", "activity": "1 none 0", "signal": "0", "hook": "none", "disconnect": "0"}


@dataclass(frozen=True)
class Made:
    gateway: Gateway
    host: ClusterHost
    pipes: ClusterPipes
    database: SqlDatabase


@contextmanager
def gateway_on(
    plane: ControlPlane, db: DatabaseUrl, site: Site, directory: Path, logins: Logins
) -> Iterator[Made]:
    """A replica of the gateway, with the rights of an administrator."""
    settings = Settings(
        db=db,
        state_dir=directory,
        piper_config=directory / "pipe.yaml",
        ssh_host="ssh.gw",
        image=site.image,
    )
    database, locks = SqlDatabase(db), AdvisoryLocks(db)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KUBECONFIG", str(plane.kubeconfig))
        api = kubernetes_api.connect()
    host, pipes = parts_over(
        database,
        api,
        site,
        logins,
        locks,
        start_timeout_seconds=60,
        uid_range=UidRange(),
    )
    parts = Parts(database, host, pipes, notices_over(database, api, site, locks), clock.shared)
    leadership = DatabaseLeadership(db)
    with pytest.MonkeyPatch.context() as names:
        names.setattr("gateway.app.assembly.leadership_of", lambda _: leadership)
        gateway = assemble(settings, parts)
    try:
        yield Made(gateway, host, pipes, database)
    finally:
        locks.close()
        for engine in (leadership.engine, database.engine):
            engine.dispose()


@contextmanager
def fake_node(plane: ControlPlane) -> Iterator[None]:
    """The node `NODE`, and the classes and the storage that the gateway needs."""
    api, gpus = plane.api(), [replace(gpu, simulated=False) for gpu in gpus_of_a_node()]
    add_kinds(plane)
    add_device_classes(api, gpus)
    add_node(api, NODE, gpus)
    yield
    remove_node(api, NODE)


def add_kinds(plane: ControlPlane) -> None:
    """The definition of Pipes, until it is served, and storage for homes."""
    apply(plane, ["pipes"])
    with suppress_existing():
        plane.api().create("storage.k8s.io/v1/storageclasses", _STORAGE)
    eventually(lambda: _serves_pipes(plane.api()), _SECONDS)


def _serves_pipes(api: Api) -> bool:
    try:
        api.list(PIPES)
    except Refused:
        return False
    return True


@contextmanager
def own_namespaces(api: Api, **changes: Any) -> Iterator[Site]:
    """Namespaces that no other database uses, because homes outlive sessions. `changes` are of the site."""
    number = next(_NUMBERS)
    site = replace(SITE, sessions=f"sessions-{number}", routes=f"routes-{number}", **changes)
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    for name, labels in ((site.sessions, restricted), (site.routes, {})):
        api.create("v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    eventually(lambda: api.get("v1/serviceaccounts", "default", site.sessions), _SECONDS)
    yield site
    for name in (site.sessions, site.routes):
        api.delete("v1/namespaces", name)


_STORAGE: Object = {
    "metadata": {
        "name": STORAGE,
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "kubernetes.io/host-path",
}
