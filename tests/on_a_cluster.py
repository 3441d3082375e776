"""A whole gateway over a cluster in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway import failpoints
from gateway.app import Gateway, Parts, assemble
from gateway.repositories.sql.database import SqlDatabase
from tests.client import AsksApi
from tests.conftest import Bench, Clock, beside
from tests.fakes.cluster import FakeCluster, FakeLogins
from tests.fakes.cluster_host import SITE, ClusterParts, cluster_parts

MADE = ("pods", "secrets", "resourceclaims", "pipes")
EGRESS = "gpu-egress/egress-proxy"
EGRESS_SERVICE = {
    "metadata": {"name": "egress-proxy", "namespace": "gpu-egress"},
    "spec": {"clusterIP": "10.96.0.31", "ports": [{"port": 3128}]},
}


@dataclass
class OnCluster(AsksApi):
    gateway: Gateway
    parts: ClusterParts
    database: SqlDatabase
    clock: Clock

    @property
    def cluster(self) -> FakeCluster:
        return self.parts.cluster

    @property
    def logins(self) -> FakeLogins:
        return self.parts.logins

    def address(self, session_id: str) -> str:
        with self.database.read() as rows:
            return str(rows.live(session_id).address)

    def left(self) -> dict[str, list[str]]:
        """What there is of sessions, without the homes."""
        return {plural: names for plural in MADE if (names := self.cluster.api.names(plural))}


@contextmanager
def a_cluster(bench: Bench, directory: Path, empty_database: Path, **changes: Any) -> Iterator[OnCluster]:
    """One with one GPU, and a database of its own in this new directory. `changes` are settings."""
    settings, database = beside(bench, directory, empty_database)
    settings = replace(settings, **changes)
    site = replace(SITE, egress_hosts=settings.egress_hosts, egress_service=settings.egress_service)
    parts = cluster_parts(database, site=site)
    made = assemble(settings, Parts(database, parts.host, parts.pipes, parts.notices, bench.clock))
    yield OnCluster(made, parts, database, bench.clock)
    failpoints.arm("")
    database.engine.dispose()


def put_an_older_database_back(on_cluster: OnCluster, session_id: str) -> None:
    """One that has never heard of the session."""
    with on_cluster.database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM sessions WHERE id = ?", (session_id,))
