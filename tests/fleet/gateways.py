"""A gateway in front of a cluster with a real node: processes with the rights that the manifests give."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

from sqlalchemy.engine import make_url

from gateway.database_url import DatabaseUrl
from gateway.repositories.sql import schema
from tests.fleet.api import Object
from tests.fleet.control_plane import ControlPlane
from tests.fleet.node import STORAGE_CLASS, Node, image_of
from tests.fleet.nodes import suppress_existing
from tests.paths import REPOSITORY
from tests.postgresql import PostgresServer
from tests.whole_gateway import Gateway, eventually

SESSIONS, ROUTES = "gpu-sessions", "gpu-routes"
IMAGE = "gpu-workspace"
SECONDS = 120  # of patience with a loaded machine
_BASE = REPOSITORY / "docker/kubernetes/base"
MANIFESTS = ("namespaces", "pipes", "device-classes", "rbac", "network-policies")
_POLICIES = ("admission-pods", "admission-objects")
_COLLECTIONS = ("v1/pods", "v1/secrets", "resource.k8s.io/v1/resourceclaims")
PIPES = "sshpiper.com/v1beta1/pipes"
_FIRST_UIDS = count(30000, 100)
_OF_A_SERVER = (
    "GATEWAY_SIMULATE_GPUS",
    "GATEWAY_PIPER_CONFIG",
    "GATEWAY_WORKSPACE_ROOT",
    "GATEWAY_NETWORK",
    "GATEWAY_SUBNET",
    "GATEWAY_SESSION_MEMORY",
)


def prepare(plane: ControlPlane) -> None:
    """Apply the manifests, without the gateway's and the routers' own pods."""
    apply(plane, MANIFESTS)
    apply_policies(plane)


def apply(plane: ControlPlane, names: Sequence[str]) -> None:
    files = [option for name in names for option in ("-f", _BASE / f"{name}.yaml")]
    plane.kubectl("apply", "--server-side", *files)


def apply_policies(plane: ControlPlane) -> None:
    """After the other manifests."""
    images = {"metadata": {"name": "session-images", "namespace": "gpu-gateway"}}
    apply(plane, _POLICIES)
    with suppress_existing():
        plane.api().create("v1/configmaps", {**images, "data": {"images": image_of(IMAGE)}})


@dataclass
class Replica(Gateway):
    """A gateway of the cluster. Its router and the mirror of the routes run beside it."""

    plane: ControlPlane = field(kw_only=True)
    postgresql: PostgresServer = field(kw_only=True)
    database: str = field(kw_only=True)

    @property
    def environment(self) -> dict[str, str]:
        others = {name: text for name, text in super().environment.items() if name not in _OF_A_SERVER}
        return others | {
            "GATEWAY_SITE": "kubernetes",
            "GATEWAY_DB": self.database,
            "GATEWAY_STATE_DIR": str(self.directory / "state"),
            "GATEWAY_IMAGE": image_of(IMAGE),
            "GATEWAY_STORAGE_CLASS": STORAGE_CLASS,
            "GATEWAY_WORKSPACE_QUOTA": "1g",
            "GATEWAY_MEMORY_PER_SLICE": "512m",
            "GATEWAY_START_TIMEOUT_SECONDS": "60",
            "GATEWAY_UID_RANGE": _uids_of(self.database),
            "GATEWAY_SSH_HOST_KEY": str(self._host_key),
            "KUBECONFIG": str(self.plane.kubeconfig_of("gateway", "gpu-gateway")),
            **self.settings,
        }

    @property
    def _host_key(self) -> Path:
        return self.directory / "sshpiper/ssh_host_ed25519_key.pub"

    def start_routers(self) -> None:
        """`gateway mirror-pipes` and the embedded router, which have the settings of one server."""
        account = {"KUBECONFIG": str(self.plane.kubeconfig_of("router", "gpu-routes"))}
        routers = Gateway(
            self.directory, ssh_port=self.ssh_port, settings=account, processes=self.processes, warm=self.warm
        )
        for name in ("mirror-pipes", "router"):
            routers.start(name)
        eventually(self._host_key.exists, SECONDS)

    def expire(self, session_id: str, seconds: float = 0) -> None:
        self.postgresql.ask(
            f"UPDATE sessions SET expires_at = now() + interval '{seconds} s' WHERE id = '{session_id}'",
            str(make_url(self.database).database),
        )

    def leftovers(self, session_id: str) -> list[str]:
        rows = [each for each in self.get("/sessions")["sessions"] if each["session_id"] == session_id]
        return [*self.objects(session_id), *("row" for _ in rows)]

    def objects(self, session_id: str) -> list[str]:
        """The objects of the session, as KIND/NAME."""
        places = [*((each, SESSIONS) for each in _COLLECTIONS), (PIPES, ROUTES), ("v1/secrets", ROUTES)]
        return [
            f"{collection}/{found['metadata']['name']}"
            for collection, namespace in places
            for found in self.plane.api().list(collection, namespace)
            if _is_of(found, session_id)
        ]


@cache
def _uids_of(database: str) -> str:
    """Homes outlive their database, so each database of one cluster has its own uids."""
    first = next(_FIRST_UIDS)
    return f"{first}-{first + 99}"


def _is_of(found: Object, session_id: str) -> bool:
    labels = found["metadata"].get("labels") or {}
    return bool(labels.get("gpu-ssh-gateway.io/session") == session_id)


def replica(
    node: Node, postgresql: PostgresServer, database: str, directory: Path, **settings: str
) -> Replica:
    directory.mkdir(exist_ok=True)
    return Replica(directory, settings=settings, plane=node.plane, postgresql=postgresql, database=database)


@contextmanager
def gateway_before(node: Node, directory: Path, **settings: str) -> Iterator[Replica]:
    postgresql = PostgresServer()
    try:
        url = postgresql.create()
        schema.upgrade(DatabaseUrl(url))
        prepare(node.plane)
        gateway = replica(node, postgresql, url, directory, **settings)
        try:
            gateway.start_routers()
            gateway.serve()
            yield gateway
        finally:
            for name in list(gateway.processes):
                gateway.kill(name)
    finally:
        postgresql.end()
