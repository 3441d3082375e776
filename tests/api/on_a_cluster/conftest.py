"""Whole gateways on a cluster in memory: only Kubernetes and the connections to the sessions are fakes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copy

import pytest

from gateway.app import Parts, assemble
from gateway.repositories.sql.database import SqlDatabase
from tests.conftest import Bench
from tests.fakes.cluster import FakeCluster
from tests.fakes.cluster_host import cluster_parts
from tests.fakes.gpus import FakeGpus
from tests.on_a_cluster import OnCluster, a_cluster


@pytest.fixture
def on_cluster(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[OnCluster]:
    with a_cluster(bench, tmp_path / "cluster", empty_database) as made:
        yield made


def on_nodes(bench: Bench, directory: Path, empty_database: Path, *gpus_of: int) -> OnCluster:
    """A cluster whose nodes have so many GPUs each."""
    copy(empty_database, directory / "nodes.db")
    database = SqlDatabase(type(bench.settings.db)(directory / "nodes.db"))
    nodes = {
        f"node-{number}": [
            replace(gpu, uuid=f"GPU-{number}-{gpu.index}") for gpu in FakeGpus(["A100-40GB"] * count).list()
        ]
        for number, count in enumerate(gpus_of, 1)
    }
    parts = cluster_parts(database, cluster=FakeCluster(nodes.pop("node-1"), nodes))
    made = assemble(bench.settings, Parts(database, parts.host, parts.pipes, parts.notices, bench.clock))
    return OnCluster(made, parts, database, bench.clock)
