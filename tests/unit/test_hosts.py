"""The promises of hosts on the local host over fakes, on a host in memory, and on a cluster in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app import Parts, assemble
from gateway.domain.states import Reason
from gateway.errors import DockerUnavailable
from tests.conftest import Bench, beside
from tests.fakes.cluster_host import cluster_parts
from tests.fakes.host import MemoryHost
from tests.fakes.notices import FakeNotices
from tests.fakes.pipes import FakePipes
from tests.host_promises import HostPromises, Site


def local_site(bench: Bench) -> Site:
    def fail(error: DockerUnavailable | None) -> None:
        for verb in ("check", "list", "run", "remove", "up_since", "disconnect", "run_inside"):
            bench.containers.fail(verb, error)

    return Site(
        bench.gateway,
        bench.host,
        bench.pipes,
        bench.database,
        bench.containers.end,
        bench.containers.lose,
        fail,
    )


@pytest.fixture
def memory_site(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[Site]:
    host, pipes = MemoryHost(), FakePipes()

    def fail(error: DockerUnavailable | None) -> None:
        host.failure = error

    settings, database = beside(bench, tmp_path / "memory", empty_database)
    gateway = assemble(settings, Parts(database, host, pipes, FakeNotices(), bench.clock))
    yield Site(gateway, host, pipes, database, lambda id: host.end(id, Reason.USER_EXIT), host.lose, fail)
    database.engine.dispose()


@pytest.fixture
def cluster_site(bench: Bench, tmp_path: Path, empty_database: Path) -> Iterator[Site]:
    settings, database = beside(bench, tmp_path / "cluster", empty_database)
    parts = cluster_parts(database)

    def fail(error: DockerUnavailable | None) -> None:
        parts.cluster.api.is_down = error is not None

    gateway = assemble(settings, Parts(database, parts.host, parts.pipes, parts.notices, bench.clock))
    yield Site(gateway, parts.host, parts.pipes, database, parts.cluster.end, parts.cluster.lose, fail)
    database.engine.dispose()


@pytest.fixture(params=["local", "memory", "cluster"])
def site(request: pytest.FixtureRequest, bench: Bench) -> Site:
    if request.param == "local":
        return local_site(bench)
    found: Site = request.getfixturevalue(f"{request.param}_site")
    return found


class TestHostsOnFakes(HostPromises):
    """With the fixture `site` above."""
