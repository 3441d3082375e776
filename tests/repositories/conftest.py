"""Real Docker for the repositories that stand before it, on a network of the tests' own."""

import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_network
from itertools import islice
from pathlib import Path

import pytest
from docker.models.containers import Container

from gateway.database_url import DatabaseUrl
from gateway.domain.mig import Gpu, Placement
from gateway.domain.plan import Allocation, SessionRequest
from gateway.domain.ssh_keys import KeyPair, make_pair
from gateway.repositories.docker.client import Docker
from gateway.repositories.docker.network import Worknet
from gateway.repositories.files.session_files import HostSessionFiles
from gateway.repositories.host_parts import ContainerSpec
from gateway.repositories.sql.database import SqlDatabase
from tests import own
from tests.fakes.gpus import FakeGpus

NETWORK, SUBNET = own.name("test"), own.subnet(212)
HOST, ADDRESS = map(str, islice(ip_network(SUBNET).hosts(), 2))  # of the host in it, and of a session
SPARE = str(ip_network(SUBNET)[-3]), str(ip_network(SUBNET)[-2])  # no container gets these
USER = own.user("user")


def printed(container: Container, command: str | list[str]) -> str:
    """The output of a command inside."""
    output = container.exec_run(command).output
    assert isinstance(output, bytes)
    return output.decode()


@pytest.fixture(scope="session")
def docker() -> Docker:
    return Docker()


@pytest.fixture(scope="session")
def worknet(docker: Docker) -> Iterator[Worknet]:
    network = Worknet(docker, NETWORK, SUBNET)
    network.ensure()
    yield network
    network.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, empty_database: Path, tmp_path: Path) -> Iterator[SqlDatabase]:
    """Of each kind, empty."""
    if request.param == "sqlite":
        shutil.copy(empty_database, tmp_path / "sessions.db")
        database = SqlDatabase(DatabaseUrl(tmp_path / "sessions.db"))
    else:
        database = SqlDatabase(request.getfixturevalue("postgresql_url"))
    yield database
    database.engine.dispose()


@pytest.fixture
def gpu() -> Gpu:
    return FakeGpus(["A100-40GB"]).list()[0]


@pytest.fixture
def router_key() -> KeyPair:
    return make_pair()


@pytest.fixture
def spec(tmp_path: Path, gpu: Gpu, router_key: KeyPair) -> ContainerSpec:
    """What a session's container is made from, with real files and a real workspace beneath."""
    session_id, uid = str(uuid.uuid4()), 20007
    request = SessionRequest(
        session_id=session_id,
        user_id=USER,
        uid=uid,
        mig_profile="3g.20gb",
        created_at=datetime(2029, 12, 31, tzinfo=UTC),
        expires_at=datetime(2030, 1, 1, tzinfo=UTC),
        router_key=router_key.public,
        host_key=make_pair(),
    )
    workspace = tmp_path / "workspace"
    workspace.mkdir(mode=0o700)
    gpu_uuid = f"MIG-{uuid.uuid4()}"
    allocation = Allocation(gpu.uuid, "3g.20gb", Placement(4, 4), mig_uuid=gpu_uuid)
    files = HostSessionFiles(tmp_path / "files").write(request, gpu, allocation)
    return ContainerSpec(request, allocation, gpu_uuid, ADDRESS, workspace, files)
