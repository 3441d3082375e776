"""The cluster's host and routes over a cluster in memory."""

from dataclasses import dataclass, replace
from datetime import timedelta

from gateway.app.cluster import login_of
from gateway.repositories.kubernetes.api import Api
from gateway.repositories.kubernetes.boards import Boards
from gateway.repositories.kubernetes.cluster import ClusterHost, Locks
from gateway.repositories.kubernetes.gpus import ClusterGpus
from gateway.repositories.kubernetes.logins import Logins
from gateway.repositories.kubernetes.objects import Site
from gateway.repositories.kubernetes.pipes import ClusterPipes
from gateway.repositories.kubernetes.running import Running
from gateway.services.ports import Database
from tests.fakes.cluster import FakeCluster, FakeLogins, MemoryLocks
from tests.fakes.gpus import FakeGpus

GIB = 2**30
SITE = Site(
    sessions="gpu-sessions",
    routes="gpu-routes",
    device_class_prefix="mig-",
    storage_class=None,
    access_mode="ReadWriteMany",
    workspace_bytes=200 * GIB,
    memory=16 * GIB,
    cpus=None,
    shm=GIB,
    tmp=2 * GIB,
    read_only_root=True,
    longest_lease=timedelta(days=7),
    image="gpu-workspace",
)


@dataclass(frozen=True)
class ClusterParts:
    cluster: FakeCluster
    logins: FakeLogins
    host: ClusterHost
    pipes: ClusterPipes


def cluster_parts(
    database: Database, kind: str = "A100-40GB", cluster: FakeCluster | None = None
) -> ClusterParts:
    """Return the parts over a cluster in memory, by default one with one GPU."""
    cluster = cluster or FakeCluster([replace(gpu, simulated=False) for gpu in FakeGpus([kind]).list()])
    logins = FakeLogins(cluster)
    return ClusterParts(cluster, logins, *parts_over(database, cluster.api.api, logins, MemoryLocks()))


def parts_over(
    database: Database, api: Api, logins: Logins, locks: Locks, start_timeout_seconds: float = 5
) -> tuple[ClusterHost, ClusterPipes]:
    """Return the host and the routes of any cluster."""

    def deployment() -> str:
        with database.read() as rows:
            return rows.deployment_id()

    host = ClusterHost(
        api=api,
        site=SITE,
        locks=locks,
        logins=logins,
        login=lambda session_id: login_of(database, session_id),
        running=Running(api, SITE, deployment, start_timeout_seconds),
        gpus=ClusterGpus(api, SITE.sessions),
        boards=Boards(api, SITE.sessions),
    )
    return host, ClusterPipes(api, SITE, locks, deployment)
