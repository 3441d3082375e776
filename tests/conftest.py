"""A gateway on fakes, for every test that needs no real machine."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from gateway.app import Parts, assemble
from gateway.host import Host
from gateway.keys import make_pair
from gateway.repositories import schema
from gateway.repositories.database import SqlDatabase
from gateway.repositories.session_files import HostSessionFiles
from gateway.repositories.workspaces import HostWorkspaces
from gateway.sessions import Sessions
from gateway.settings import Settings
from tests.fakes.containers import FakeContainers, FakeNetwork
from tests.fakes.gpus import FakeGpus
from tests.fakes.pipes import FakePipes


@dataclass
class Clock:
    """Stands still until a test moves it."""

    now: datetime

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@dataclass
class Bench:
    """A gateway on fakes and the fakes beneath it; database, workspaces and files are real."""

    settings: Settings
    database: SqlDatabase
    gpus: FakeGpus
    containers: FakeContainers
    network: FakeNetwork
    pipes: FakePipes
    clock: Clock
    app: Flask

    @property
    def sessions(self) -> Sessions:
        sessions: Sessions = self.app.extensions["sessions"]
        return sessions

    @property
    def client(self) -> FlaskClient:
        return self.app.test_client()

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


NOTHING = {"rows": [], "containers": [], "instances": [], "pipes": [], "files": []}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, made once and copied: migrating takes longer than most tests."""
    path = tmp_path_factory.mktemp("database") / "empty.db"
    schema.upgrade(path)
    return path


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[Bench]:
    settings = Settings(
        db=tmp_path / "state/sessions.db",
        piper_config=tmp_path / "pipe.yaml",
        workspace_root=tmp_path / "workspaces",
        ssh_host="ssh.gw",
    )
    settings.state_dir.mkdir()
    shutil.copy(empty_database, settings.db)
    database, gpus, containers = SqlDatabase(settings.db), FakeGpus(["A100-40GB"]), FakeContainers()
    network, pipes, clock = FakeNetwork(), FakePipes(), Clock(datetime.now(UTC).replace(microsecond=0))
    host = Host(
        gpus=gpus,
        containers=containers,
        network=network,
        workspaces=HostWorkspaces(settings.workspace_root),
        files=HostSessionFiles(settings.state_dir / "sessions"),
    )
    app = assemble(settings, Parts(database, host, pipes, clock))
    yield Bench(settings, database, gpus, containers, network, pipes, clock, app)
    database.engine.dispose()


@pytest.fixture(scope="session")
def public_key() -> str:
    return make_pair().public + " somebody@laptop"
