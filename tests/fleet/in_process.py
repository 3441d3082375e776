"""Gateways in the process of the tests, on a real control plane whose nodes are fake."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gateway.app import Gateway, Parts, assemble
from gateway.app.cluster import notices_over, parts_over
from gateway.database_url import DatabaseUrl
from gateway.domain import clock
from gateway.domain.uids import UidRange
from gateway.repositories.kubernetes import api as kubernetes_api
from gateway.repositories.kubernetes.cluster import ClusterHost
from gateway.repositories.kubernetes.logins import Login
from gateway.repositories.kubernetes.objects import Site
from gateway.repositories.kubernetes.pipes import ClusterPipes
from gateway.repositories.sql.advisory import AdvisoryLocks
from gateway.repositories.sql.database import SqlDatabase
from gateway.settings import Settings
from tests.fleet.api import Api, Object, Refused
from tests.fleet.nodes import suppress_existing
from tests.whole_gateway import eventually

STORAGE = "directories"  # a StorageClass
_SECONDS = 60  # of patience with a loaded machine


class NoSshd:
    """Fake nodes run no sshd: every login succeeds and prints what an unused session prints."""

    def run(self, login: Login, command: Sequence[str]) -> str:
        return {"tell": "0", "activity": "1 none 0", "signal": "0", "hook": "none", "disconnect": "0"}.get(
            command[3] if len(command) > 3 else "", ""
        )


@contextmanager
def gateway_on(
    db: DatabaseUrl, site: Site, directory: Path
) -> Iterator[tuple[Gateway, ClusterHost, ClusterPipes, SqlDatabase]]:
    """A replica of the gateway."""
    settings = Settings(db=db, state_dir=directory, piper_config=directory / "pipe.yaml", ssh_host="ssh.gw")
    database, locks = SqlDatabase(db), AdvisoryLocks(db)
    api = kubernetes_api.connect()
    host, pipes = parts_over(
        database,
        api,
        site,
        NoSshd(),
        locks,
        start_timeout_seconds=20,
        uid_range=UidRange(),
    )
    gateway = assemble(
        settings, Parts(database, host, pipes, notices_over(database, api, site, locks), clock.shared)
    )
    try:
        yield gateway, host, pipes, database
    finally:
        locks.close()
        database.engine.dispose()


def add_kinds(api: Api) -> None:
    """The definition of Pipes, until it is served, and storage for homes."""
    for collection, manifest in (
        ("apiextensions.k8s.io/v1/customresourcedefinitions", _PIPES),
        ("storage.k8s.io/v1/storageclasses", _STORAGE),
    ):
        with suppress_existing():
            api.create(collection, manifest)
    eventually(lambda: _serves_pipes(api), _SECONDS)


def _serves_pipes(api: Api) -> bool:
    try:
        api.list("sshpiper.com/v1beta1/pipes")
    except Refused:
        return False
    return True


def add_namespaces(api: Api, site: Site) -> None:
    for name, labels in (
        (site.sessions, {"pod-security.kubernetes.io/enforce": "restricted"}),
        (site.routes, {}),
    ):
        api.create("v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    eventually(lambda: api.get("v1/serviceaccounts", "default", site.sessions), _SECONDS)


_SCHEMA = {
    "type": "object",
    "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
}
_PIPES: Object = {
    "metadata": {"name": "pipes.sshpiper.com"},
    "spec": {
        "group": "sshpiper.com",
        "names": {"kind": "Pipe", "plural": "pipes", "singular": "pipe"},
        "scope": "Namespaced",
        "versions": [
            {"name": "v1beta1", "served": True, "storage": True, "schema": {"openAPIV3Schema": _SCHEMA}}
        ],
    },
}
_STORAGE: Object = {
    "metadata": {
        "name": STORAGE,
        "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
    },
    "provisioner": "kubernetes.io/host-path",
}
