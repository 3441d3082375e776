"""A gateway on fakes, for every test that needs no real machine."""

import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy.engine import make_url
from werkzeug.serving import make_server

from gateway.app import Gateway, Parts, assemble
from gateway.background.reconciler import Reconciler
from gateway.database_url import DatabaseUrl
from gateway.domain.clock import Moment
from gateway.domain.mig import MigPolicy
from gateway.domain.ssh_keys import make_pair
from gateway.repositories.files.session_files import HostSessionFiles
from gateway.repositories.files.workspaces import HostWorkspaces
from gateway.repositories.host import LocalHost
from gateway.repositories.receivers import HttpReceivers
from gateway.repositories.sql import schema
from gateway.repositories.sql.database import SqlDatabase
from gateway.services.disk_use import DiskUse
from gateway.services.leases import Leases
from gateway.services.sessions import Sessions
from gateway.services.tokens import Tokens
from gateway.services.warnings import Warnings
from gateway.settings import Settings
from tests.client import ApiClient
from tests.fakes.containers import FakeContainers, FakeEgress, FakeNetwork
from tests.fakes.gpus import FakeGpus
from tests.fakes.notices import FakeNotices
from tests.fakes.pipes import FakePipes
from tests.postgresql import PostgresServer

pytest.register_assert_rewrite("tests.host_promises")

_MEMORY = Path("/dev/shm")
_ROOM = 4 * 2**30  # bytes: workspaces, files that are copied, small disks


def pytest_configure() -> None:
    """Puts the tests' directories into memory where there is room, so that no commit waits for a disk."""
    if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In continuous integration a test that is skipped fails, unless it is marked as one that may be."""
    report = yield
    if report.skipped and os.environ.get("CI") and not item.get_closest_marker("may_be_skipped"):
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr}\nNo test is skipped where CI is set: install what is missing."
    return report


# A gateway that `make up` started on this machine has a settings file: not for the tests.
os.environ["GATEWAY_SETTINGS"] = os.devnull


@dataclass
class Clock:
    """Stands still until a test moves it."""

    now: datetime
    boot: str = "first"
    uptime: timedelta = timedelta(days=1)

    def __call__(self) -> Moment:
        return Moment(self.now, self.boot, self.uptime)

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)
        self.uptime += timedelta(**delta)

    def jump(self, **delta: float) -> None:
        """Somebody sets the wall clock."""
        self.now += timedelta(**delta)

    def reboot(self) -> None:
        self.boot, self.uptime = "second", timedelta()


@dataclass
class Bench:
    """A gateway on fakes and the fakes beneath it; database, workspaces and files are real."""

    settings: Settings
    database: SqlDatabase
    gpus: FakeGpus
    containers: FakeContainers
    network: FakeNetwork
    egress: FakeEgress
    pipes: FakePipes
    notices: FakeNotices
    clock: Clock
    host: LocalHost
    gateway: Gateway

    @property
    def app(self) -> Flask:
        return self.gateway.flask

    @property
    def sessions(self) -> Sessions:
        return self.gateway.sessions

    @property
    def warnings(self) -> Warnings:
        return self.gateway.warnings

    def warn(self) -> None:
        """One round of what is due before leases end; failures are raised."""
        for session, due in self.warnings.due():
            self.warnings.do(session, due)

    @property
    def leases(self) -> Leases:
        return self.gateway.leases

    @property
    def reconciler(self) -> Reconciler:
        return self.gateway.reconciler

    @property
    def disk_use(self) -> DiskUse:
        return self.gateway.disk_use

    @property
    def client(self) -> ApiClient:
        return ApiClient(self.app)

    def instances(self) -> list[str]:
        """The profiles of the GPU instances that stand, over all GPUs."""
        return [instance.profile for gpu in self.gpus.list() for instance in gpu.instances]

    def leftovers(self) -> dict[str, list[str]]:
        """What is there of any session, by part; empty lists everywhere when all is taken back."""
        with self.database.read() as rows:
            live = [session.id for session in rows.list()]
        return {
            "rows": live,
            "containers": [container.session_id for container in self.containers.list()],
            "instances": self.instances(),
            "pipes": [pipe.session_id for pipe in self.pipes.list()],
            "files": list(HostSessionFiles(self.settings.state_dir / "sessions").list()),
        }


NOTHING: dict[str, list[str]] = {"rows": [], "containers": [], "instances": [], "pipes": [], "files": []}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, made once and copied: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("database") / "empty.db"
    schema.upgrade(DatabaseUrl(path))
    return path


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.end()


@pytest.fixture(scope="session")
def empty_postgresql(postgresql: PostgresServer) -> str:
    """The name of a migrated database, to be copied."""
    url = postgresql.create()
    schema.upgrade(DatabaseUrl(url))
    return str(make_url(url).database)


@pytest.fixture
def postgresql_url(postgresql: PostgresServer, empty_postgresql: str) -> DatabaseUrl:
    """A migrated database of the test's own."""
    return DatabaseUrl(postgresql.create(empty_postgresql))


def beside(bench: Bench, directory: Path, empty_database: Path) -> tuple[Settings, SqlDatabase]:
    """The settings of another gateway beside that of the bench, with a database of its own."""
    directory.mkdir()
    shutil.copy(empty_database, directory / "sessions.db")
    settings = replace(bench.settings, db=DatabaseUrl(directory / "sessions.db"), state_dir=directory)
    return settings, SqlDatabase(settings.db)


def make_bench(directory: Path, empty_database: Path, gpus: Any, **changes: Any) -> Bench:
    """Over `gpus`, fake or not; `changes` are settings. A database that is there already is kept."""
    settings = Settings(
        **{
            "db": DatabaseUrl(directory / "state/sessions.db"),
            "state_dir": directory / "state",
            "piper_config": directory / "pipe.yaml",
            "workspace_root": directory / "workspaces",
            "ssh_host": "ssh.gw",
            **changes,
        }
    )
    settings.state_dir.mkdir(exist_ok=True)
    if settings.db.path and not settings.db.path.exists():
        shutil.copy(empty_database, settings.db.path)
    database, containers = SqlDatabase(settings.db), FakeContainers()
    network, egress, pipes, notices = FakeNetwork(), FakeEgress(), FakePipes(), FakeNotices()
    clock = Clock(datetime.now(UTC).replace(microsecond=0))
    host = LocalHost(
        gpus=gpus,
        containers=containers,
        network=network,
        egress=egress,
        workspaces=HostWorkspaces(settings.workspace_root, settings.workspace_quota_bytes),
        files=HostSessionFiles(settings.state_dir / "sessions", language=settings.language),
        subnet=IPv4Network(settings.subnet),
        mig_policy=MigPolicy(settings.mig_policy),
        uid_range=settings.uid_range,
    )
    receivers = HttpReceivers(settings.webhook_networks)
    gateway = assemble(settings, Parts(database, host, pipes, notices, clock, receivers))
    return Bench(settings, database, gpus, containers, network, egress, pipes, notices, clock, host, gateway)


BenchMaker = Callable[..., Bench]


@pytest.fixture
def bench_of(tmp_path: Path, empty_database: Path) -> Iterator[BenchMaker]:
    """`bench_of(gpus, mig_policy="static")`; all that are made in one test share a directory."""
    made: list[Bench] = []

    def make(gpus: Any, **changes: Any) -> Bench:
        made.append(make_bench(tmp_path, empty_database, gpus, **changes))
        return made[-1]

    yield make
    for bench in made:
        bench.database.engine.dispose()


@pytest.fixture
def bench(bench_of: BenchMaker) -> Bench:
    return bench_of(FakeGpus(["A100-40GB"]))


@pytest.fixture
def tokens(bench: Bench) -> Tokens:
    return Tokens(bench.database, bench.clock)


@pytest.fixture
def url(bench: Bench) -> Iterator[str]:
    """The bench's API, served."""
    server = make_server("127.0.0.1", 0, bench.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def public_key() -> str:
    return make_pair().public + " somebody@laptop"
