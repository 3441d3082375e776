"""The cluster's host and routes over a cluster in memory."""

from dataclasses import dataclass, replace
from datetime import timedelta

from gateway.app.cluster import notices_over, parts_over
from gateway.domain.uids import UidRange
from gateway.repositories.kubernetes.cluster import ClusterHost
from gateway.repositories.kubernetes.notices import ClusterNotices
from gateway.repositories.kubernetes.objects import Site
from gateway.repositories.kubernetes.pipes import ClusterPipes
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
    lease_service="gpu-gateway/gateway",
)


@dataclass(frozen=True)
class ClusterParts:
    cluster: FakeCluster
    logins: FakeLogins
    host: ClusterHost
    pipes: ClusterPipes
    notices: ClusterNotices


def cluster_parts(
    database: Database, kind: str = "A100-40GB", cluster: FakeCluster | None = None, site: Site = SITE
) -> ClusterParts:
    """Return the parts over a cluster in memory, by default one with one GPU."""
    cluster = cluster or FakeCluster([replace(gpu, simulated=False) for gpu in FakeGpus([kind]).list()])
    logins = FakeLogins(cluster)
    locks = MemoryLocks()
    api = cluster.api.api
    host, pipes = parts_over(
        database, api, site, logins, locks, start_timeout_seconds=5, uid_range=UidRange()
    )
    return ClusterParts(cluster, logins, host, pipes, notices_over(database, api, site, locks))
